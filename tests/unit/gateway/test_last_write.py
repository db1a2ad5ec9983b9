"""Health writes only where the requests of users have not written for a while."""

import pytest

from vdi.gateway.last_write import RECENT_SECONDS, LastWrite


class Server:
    """A server with its own clock. `writes`: those of health."""

    def __init__(self) -> None:
        self.now, self.writes, self.error = 1000.0, 0, ""
        self.last_write = LastWrite(OSError, lambda: self.now)

    async def write(self) -> None:
        with self.last_write.record():
            if self.error:
                raise OSError(self.error)

    async def check(self) -> None:
        async def write() -> None:
            self.writes += 1
            await self.write()

        await self.last_write.check(write)


async def test_health_writes_only_without_a_recent_write() -> None:
    server = Server()
    for _ in range(10):
        await server.write()
        server.now += RECENT_SECONDS
        await server.check()
    assert server.writes == 0
    server.now += 0.1
    await server.check()
    await server.check()
    assert server.writes == 1


async def test_failed_write_of_a_user_counts_at_once() -> None:
    server = Server()
    await server.check()
    server.error = "disk full"
    with pytest.raises(OSError):
        await server.write()
    server.error = ""  # a small write still works on many full disks
    with pytest.raises(OSError, match="disk full"):
        await server.check()
    assert server.writes == 1
    await server.write()
    await server.check()


async def test_each_check_after_a_failed_one_writes_again() -> None:
    server = Server()
    server.error = "read-only"
    for _ in range(3):
        with pytest.raises(OSError, match="read-only"):
            await server.check()
    server.error = ""
    await server.check()
    assert server.writes == 4


async def test_other_errors_are_no_outcome() -> None:
    server = Server()
    with pytest.raises(ValueError), server.last_write.record():
        raise ValueError("the caller's own mistake")
    await server.check()
    assert server.writes == 1
