"""General Kubernetes knowledge: quantities, capacity of nodes, views of pods, nodes and claims. Pure; knows no
desktops.
"""
