"""A Kubernetes client runtime on asyncio and msgspec, which knows nothing of desktops. Design: docs/design/operator.md."""
