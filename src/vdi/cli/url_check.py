"""Checks whether a session's URL answers from this machine, for `create --wait`. Sends no credentials."""

import asyncio
from dataclasses import dataclass

from vdi.http_client import CONNECT_ERRORS, HTTP_ERRORS, HttpClient, open_client, reason_of, unverified

_POLL_SECONDS = 0.2
_UNREACHABLE_AFTER_SECONDS = 3.0
_ONE_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class UrlStatus:
    """The result of a check. `reached`: something spoke HTTP; `ready`: the desktop, not the proxy's error page."""

    reached: bool
    ready: bool
    text: str


def interpret(status: int, *, by_gateway: bool = False) -> UrlStatus:
    """The meaning of a status code: a proxy sends 404 without a route, and 502 to 504 without a desktop behind it.

    `by_gateway`: a gateway stands before the desktop, and has answered.
    """
    if status == 404:
        return UrlStatus(True, False, "responds with 404: the proxy has no route for this host yet")
    if status >= 500:
        return UrlStatus(True, False, f"responds with {status}: the proxy cannot reach the desktop")
    asked = "login" if by_gateway else "password"
    return UrlStatus(True, True, f"answers {status}" if status != 401 else f"responds, and asks for the {asked}")


async def check(client: HttpClient, url: str) -> UrlStatus:
    """Check once."""
    try:
        async with asyncio.timeout(_ONE_REQUEST_SECONDS), client.stream("GET", url) as response:
            return interpret(response.status, by_gateway="X-VDI-Gateway" in response.headers)
    except CONNECT_ERRORS as error:
        return UrlStatus(False, False, f"cannot be reached from this machine: {reason_of(error)}")
    except HTTP_ERRORS as error:
        return UrlStatus(False, False, f"does not respond: {reason_of(error)}")


async def wait_until_ready(url: str, seconds: float) -> UrlStatus:
    """Check until the desktop answers; the last status after `seconds`, sooner if the host cannot be reached.

    The certificate is not verified: whether the browser trusts it is another question.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ever_reached = False
    async with open_client(url, seconds=_ONE_REQUEST_SECONDS, tls=unverified()) as client:
        while True:
            status = await check(client, url)
            ever_reached = ever_reached or status.reached
            waited = loop.time() - begun
            if status.ready or waited > seconds or (not ever_reached and waited > _UNREACHABLE_AFTER_SECONDS):
                return status
            await asyncio.sleep(_POLL_SECONDS)
