"""Does a session's URL answer from this machine? Asked by `create --wait` at the end. Sends no credentials."""

import asyncio
import socket
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

_POLL_SECONDS = 0.2
_UNREACHABLE_AFTER_SECONDS = 3.0
_ONE_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking. `reached`: something spoke HTTP; `ready`: the desktop, not the proxy's error page."""

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


def judge(status: int, *, by_gateway: bool = False) -> Answer:
    """What a status code means: the proxy says 404 without a route and 502 to 504 without a desktop behind it.

    `by_gateway`: a gateway stands before the desktop, and has answered.
    """
    if status == 404:
        return Answer(True, False, "answers 404: the proxy has no route for this host yet")
    if status >= 500:
        return Answer(True, False, f"answers {status}: the proxy does not reach the desktop")
    asked = "login" if by_gateway else "password"
    return Answer(True, True, f"answers {status}" if status != 401 else f"answers, and asks for the {asked}")


async def ask(session: aiohttp.ClientSession, url: str) -> Answer:
    """Ask once. Whether the certificate is trusted is the browser's matter, not this question's."""
    try:
        async with session.get(url, ssl=False, allow_redirects=False) as response:
            return judge(response.status, by_gateway="X-VDI-Gateway" in response.headers)
    except aiohttp.ClientConnectorError as error:
        return Answer(False, False, f"cannot be reached from this machine: {error}")
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return Answer(False, False, f"does not answer: {str(error) or type(error).__name__}")


async def until_ready(url: str, seconds: float) -> Answer:
    """Ask until the desktop answers; the last answer when `seconds` are over, sooner if the host cannot be reached."""
    timeout = aiohttp.ClientTimeout(total=_ONE_REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(resolver=LocalhostResolver(), force_close=True)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ever_reached = False
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        while True:
            answer = await ask(session, url)
            ever_reached = ever_reached or answer.reached
            waited = loop.time() - begun
            if answer.ready or waited > seconds or (not ever_reached and waited > _UNREACHABLE_AFTER_SECONDS):
                return answer
            await asyncio.sleep(_POLL_SECONDS)
