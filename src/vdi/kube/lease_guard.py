"""Keeps a client from writing while another process may: the seam between `lease`, which knows, and `transport`."""

from collections.abc import Callable

LeaseGuard = Callable[[], float]
"""Gives how many seconds a write that begins now may take. Raises NotLeader when it must not begin."""
