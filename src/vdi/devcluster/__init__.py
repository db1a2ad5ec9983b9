"""A real Kubernetes cluster on this machine, for the demo and the tests: programs, images, node.
Knows no sessions.
"""
