"""VDI: desktops on Kubernetes. The map of the packages is in docs/design/architecture.md."""
