"""The real node of the end-to-end tests, broken in one place after another."""

from e2e.conftest import sessions, world

__all__ = ["sessions", "world"]
