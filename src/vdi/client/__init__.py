"""Python client of the portal: start desktops and drive them. docs/agents.md shows it.

Needs httpx and msgspec, and no other package of this project.
"""

from vdi.client.desktop import AsyncDesktop, Desktop
from vdi.client.errors import (
    Forbidden,
    HumanInControl,
    NotFound,
    NotReady,
    Queued,
    Refused,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    VdiError,
)

__all__ = [
    "AsyncDesktop",
    "Desktop",
    "Forbidden",
    "HumanInControl",
    "NotFound",
    "NotReady",
    "Queued",
    "Refused",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "VdiError",
]
