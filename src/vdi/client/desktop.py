"""`Desktop` for blocking programs, `AsyncDesktop` for asyncio."""

import builtins
from typing import Self, Unpack

import httpx

from vdi.client.operations import (
    CommandOperations,
    DesktopInfo,
    DesktopOperations,
    RecordingOperations,
    create,
    list_desktops,
)
from vdi.client.transport import Async, Blocking, Portal, open_async_client, open_client


class _Commands(CommandOperations, Blocking):
    pass


class _AsyncCommands(CommandOperations, Async):
    pass


class _Recording(RecordingOperations, Blocking):
    pass


class _AsyncRecording(RecordingOperations, Async):
    pass


class Desktop(DesktopOperations, Blocking):
    """A desktop that a program drives. `with` ends one of `start`, and keeps one of `connect`.

    Every method raises VdiError: Refused and its kinds, or Unreachable.
    """

    def __init__(self, name: str, client: httpx.Client, *, keep: bool) -> None:
        super().__init__(name, client)
        self.keep = keep
        self.commands = _Commands(name, client)
        self.recording = _Recording(name, client)

    @classmethod
    def start(
        cls,
        template: str,
        name: str | None = None,
        *,
        timeout: float = 300,
        keep: bool = False,
        **portal: Unpack[Portal],
    ) -> Self:
        """A new desktop that runs; `name` by default from user and template.

        Raises as `wait` after `timeout` seconds: the desktop then exists, perhaps in the queue.
        `keep`: `with` does not end it.
        """
        client = open_client(portal)
        try:
            desktop = cls(Blocking("", client)._run(create(template, name)), client, keep=keep)
            desktop.wait(timeout)
        except BaseException:
            client.close()
            raise
        return desktop

    @classmethod
    def connect(cls, name: str, **portal: Unpack[Portal]) -> Self:
        """A desktop that exists. Sends nothing, so a token of this one desktop suffices."""
        return cls(name, open_client(portal), keep=True)

    @staticmethod
    def list(**portal: Unpack[Portal]) -> builtins.list[DesktopInfo]:
        """Your desktops and those shared with you, oldest first."""
        with open_client(portal) as client:
            return Blocking("", client)._run(list_desktops())

    def close(self) -> None:
        """Close the connection; the desktop stays as it is."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self.keep:
                self.end()
        finally:
            self.close()


class AsyncDesktop(DesktopOperations, Async):
    """`Desktop` for asyncio: the same methods, awaited, and `async with`."""

    def __init__(self, name: str, client: httpx.AsyncClient, *, keep: bool) -> None:
        super().__init__(name, client)
        self.keep = keep
        self.commands = _AsyncCommands(name, client)
        self.recording = _AsyncRecording(name, client)

    @classmethod
    async def start(
        cls,
        template: str,
        name: str | None = None,
        *,
        timeout: float = 300,  # noqa: ASYNC109 - as Desktop.start
        keep: bool = False,
        **portal: Unpack[Portal],
    ) -> Self:
        client = open_async_client(portal)
        try:
            made = await Async("", client)._run(create(template, name))
            desktop = cls(made, client, keep=keep)
            await desktop.wait(timeout)
        except BaseException:
            await client.aclose()
            raise
        return desktop

    @classmethod
    def connect(cls, name: str, **portal: Unpack[Portal]) -> Self:
        """As `Desktop.connect`; not awaited."""
        return cls(name, open_async_client(portal), keep=True)

    @staticmethod
    async def list(**portal: Unpack[Portal]) -> builtins.list[DesktopInfo]:
        async with open_async_client(portal) as client:
            return await Async("", client)._run(list_desktops())

    async def close(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if not self.keep:
                await self.end()
        finally:
            await self.close()
