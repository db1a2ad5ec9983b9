"""How a copy of a home fails."""


class CopyRefusedError(Exception):
    """Raised before anything was changed: the copy cannot be made as requested. The message says why."""


class CopyFailedError(Exception):
    """Raised when a copy broke off. The message says why, and what was kept."""
