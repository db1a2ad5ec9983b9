"""VDI: desktops on Kubernetes. The map of the rooms is in CONTRIBUTING.md."""
