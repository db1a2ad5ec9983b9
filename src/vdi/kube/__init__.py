"""A Kubernetes client runtime on asyncio and msgspec that knows nothing of desktops:
docs/design/operator.md.
"""
