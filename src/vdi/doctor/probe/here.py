"""The way that a browser takes, tried from here: name, certificate, answer, WebSocket."""

import asyncio
import base64
import re
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from vdi.doctor.checks.registry import found
from vdi.findings.model import Finding, Remedy
from vdi.http_client import HTTP_ERRORS, certificate_error, is_unknown_host, open_client, reason_of, unverified

_SECONDS = 10.0
_STREAM = "/api/websockets"
_UNKNOWN_AUTHORITY = re.compile(r"self.signed certificate|unable to get local issuer")
_REFUSED_BY_THE_DOOR = frozenset({401, 403})
"""What the gateway says to somebody without a token, and Selkies without a password: the upgrade has come through."""


@dataclass(frozen=True, slots=True)
class Target:
    """A session that runs, and where its browser goes."""

    session: str
    """As findings name it."""
    url: str
    related_objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The result; empty and 0 where it was not reached."""

    problem: str = ""
    """`name`, `connection`."""
    words: str = ""
    certificate: str = ""
    """Why it is refused."""
    status: int = 0
    websocket: int = 0
    """101, or the status of the refusal."""


async def try_way(url: str) -> Seen:
    """What a browser would meet. Never raises for what the network does."""
    certificate = ""
    try:
        try:
            status, websocket = await _ask(url, None)
        except HTTP_ERRORS as error:
            untrusted = certificate_error(error)
            if untrusted is None:
                raise
            certificate = str(untrusted)
            status, websocket = await _ask(url, unverified())  # the rest of the way is worth knowing all the same
        return Seen(certificate=certificate, status=status, websocket=websocket)
    except HTTP_ERRORS as error:
        return Seen("name" if is_unknown_host(error) else "connection", reason_of(error), certificate=certificate)


async def _ask(url: str, tls: ssl.SSLContext | None) -> tuple[int, int]:
    """Status of the page, and of the WebSocket's handshake (RFC 6455, 4.1)."""
    origin = url.rstrip("/")
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    async with asyncio.timeout(_SECONDS), open_client(url, seconds=_SECONDS, tls=tls) as client:
        async with client.stream("GET", url) as page:
            pass
        async with client.stream("GET", origin + _STREAM, headers={**upgrade, "Origin": origin}) as handshake:
            return page.status, handshake.status


def judge(target: Target, seen: Seen) -> Iterator[Finding]:
    """What is wrong on the way."""
    host = urlsplit(target.url).hostname or target.url
    if seen.problem == "name":
        yield _found(
            "probe_name_not_found", target, f"{host} cannot be resolved: {seen.words}.", Remedy.run(f"dig {host}")
        )
        return
    if seen.problem:
        message = f"{target.url} does not respond: {seen.words.rstrip('.')}."
        yield _found("probe_unreachable", target, message, Remedy.run(f"curl -vk {target.url}"))
        return
    # A cluster on this machine has an authority of its own, which no one is meant to trust for longer.
    of_this_machine = host.endswith(".localhost") and _UNKNOWN_AUTHORITY.search(seen.certificate)
    if seen.certificate and not of_this_machine:
        message = f"The certificate at {host} is not trusted here: {seen.certificate.rstrip('.')}."
        command = f"openssl s_client -connect {_address(target.url)}"
        yield _found("probe_certificate_refused", target, message, Remedy.run(command))
    if seen.status == 404:
        message = f"{host} responds with 404: Traefik has no route for it."
        yield _found("probe_not_routed", target, message, Remedy.run(f"curl -vk {target.url}"))
    elif seen.status >= 500:
        message = f"{host} responds with {seen.status}."
        yield _found("probe_bad_answer", target, message, Remedy.run(f"curl -vk {target.url}"))
    elif seen.websocket != 101 and seen.websocket not in _REFUSED_BY_THE_DOOR:
        message = f"{host} responds with {seen.status}, but its WebSocket {seen.websocket}: a proxy drops the upgrade."
        yield _found("probe_websocket_refused", target, message, Remedy.run(f"curl -vk {target.url}{_STREAM}"))


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 443}"


def _found(code: str, target: Target, message: str, remedy: Remedy) -> Finding:
    return found(
        code,
        target.session,
        message,
        evidence=[f"tried: {target.url}"],
        remedy=remedy,
        related_objects=target.related_objects,
    )


async def probe_here(targets: list[Target]) -> list[Finding]:
    """All of them, side by side."""
    seen = await asyncio.gather(*(try_way(target.url) for target in targets))
    return [finding for target, one in zip(targets, seen, strict=True) for finding in judge(target, one)]
