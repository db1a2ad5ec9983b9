"""Keeps a client from writing while another process may: the seam between `lease`, which knows, and `transport`."""

from collections.abc import Callable

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

Fence = Callable[[], float]
"""Gives how many seconds a write that begins now may take. Raises NotLeader when it must not begin."""


class FencedBody(BytesPayload):
    """The body of a write. Looks at the fence at the last moment: the wait for a free connection may have been long.

    A write stopped here looks like a lost connection and is tried again; that try then raises NotLeader.
    """

    def __init__(self, data: bytes, fence: Fence) -> None:
        super().__init__(data)
        self._fence = fence

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Nothing has left before this, not even the headers, which wait for the body."""
        self._fence()
        await super().write_with_length(writer, content_length)
