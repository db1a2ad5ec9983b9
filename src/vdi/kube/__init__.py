"""A Kubernetes client runtime on asyncio and msgspec that knows nothing of desktops. Design: docs/design/operator.md."""
