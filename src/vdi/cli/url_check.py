"""Checks whether a session's URL answers from this machine, for `create --wait`. Sends no credentials."""

import asyncio
import socket
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

_POLL_SECONDS = 0.2
_UNREACHABLE_AFTER_SECONDS = 3.0
_ONE_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class UrlStatus:
    """The result of a check. `reached`: something spoke HTTP; `ready`: the desktop, not the proxy's error page."""

    reached: bool
    ready: bool
    text: str


class LocalhostResolver(AbstractResolver):
    """Resolves `*.localhost` to the loopback address as browsers do (RFC 6761, 6.3); many system resolvers don't."""

    def __init__(self) -> None:
        self._others = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host name."""
        if not host.endswith(".localhost"):
            return await self._others.resolve(host, port, family)
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0),
        ]

    async def close(self) -> None:
        """Nothing is held open."""
        await self._others.close()


def interpret(status: int, *, by_gateway: bool = False) -> UrlStatus:
    """What a status code means: the proxy says 404 without a route and 502 to 504 without a desktop behind it.

    `by_gateway`: a gateway stands before the desktop, and has answered.
    """
    if status == 404:
        return UrlStatus(True, False, "answers 404: the proxy has no route for this host yet")
    if status >= 500:
        return UrlStatus(True, False, f"answers {status}: the proxy does not reach the desktop")
    asked = "login" if by_gateway else "password"
    return UrlStatus(True, True, f"answers {status}" if status != 401 else f"answers, and asks for the {asked}")


async def check(session: aiohttp.ClientSession, url: str) -> UrlStatus:
    """Check once. The certificate is not verified: whether the browser trusts it is another question."""
    try:
        async with session.get(url, ssl=False, allow_redirects=False) as response:
            return interpret(response.status, by_gateway="X-VDI-Gateway" in response.headers)
    except aiohttp.ClientConnectorError as error:
        return UrlStatus(False, False, f"cannot be reached from this machine: {error}")
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return UrlStatus(False, False, f"does not answer: {str(error) or type(error).__name__}")


async def wait_until_ready(url: str, seconds: float) -> UrlStatus:
    """Check until the desktop answers; the last status after `seconds`, sooner if the host cannot be reached."""
    timeout = aiohttp.ClientTimeout(total=_ONE_REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(resolver=LocalhostResolver(), force_close=True)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ever_reached = False
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        while True:
            answer = await check(session, url)
            ever_reached = ever_reached or answer.reached
            waited = loop.time() - begun
            if answer.ready or waited > seconds or (not ever_reached and waited > _UNREACHABLE_AFTER_SECONDS):
                return answer
            await asyncio.sleep(_POLL_SECONDS)
