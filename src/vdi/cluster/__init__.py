"""General Kubernetes knowledge below the domain of desktops: quantities, capacity of nodes, pods
that do not start.

Pure. `kasm`, `helm` and `doctor` use it without `vdi.session`. Its sentences are about a desktop
unless another `Subject` is passed.
"""
