"""The way that a browser takes, tried from here: name, certificate, answer, WebSocket."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc

from vdi.doctor.checks.registry import found
from vdi.findings.model import Finding, Remedy

_SECONDS = 10.0
_STREAM = "/api/websockets"
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
    """What came of trying; empty and 0 where it was not got to."""

    problem: str = ""
    """`name`, `connection`."""
    words: str = ""
    certificate: str = ""
    """Why it is refused."""
    status: int = 0
    websocket: int = 0
    """101, or the status of the refusal."""


class _Resolver(aiohttp.ThreadedResolver):
    """Names below `localhost` are this machine, as browsers have it (RFC 6761, 6.3)."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """See aiohttp."""
        return await super().resolve("localhost" if host.endswith(".localhost") else host, port, family)


async def try_way(url: str) -> Seen:
    """What a browser would meet. Never raises for what the network does."""
    context = ssl.create_default_context()
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    certificate = ""
    connector = aiohttp.TCPConnector(resolver=_Resolver())
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as http:
        try:
            try:
                status = await _status(http, url, context)
            except aiohttp.ClientConnectorCertificateError as error:
                certificate = str(error.certificate_error)
                context = _unchecked()  # the rest of the way is worth knowing all the same
                status = await _status(http, url, context)
            return Seen(certificate=certificate, status=status, websocket=await _websocket(http, url, context))
        except aiohttp.ClientConnectorDNSError as error:
            return Seen("name", str(error.os_error))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            words = str(error) or f"no answer within {_SECONDS:g} s"
            return Seen("connection", words, certificate=certificate)


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _status(http: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> int:
    async with http.get(url, ssl=context, allow_redirects=False) as answer:
        return answer.status


async def _websocket(http: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> int:
    address = url.rstrip("/") + _STREAM
    try:
        async with http.ws_connect(address, ssl=context, origin=url.rstrip("/")):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


def judge(target: Target, seen: Seen) -> Iterator[Finding]:
    """What is wrong on the way."""
    host = urlsplit(target.url).hostname or target.url
    if seen.problem == "name":
        yield _found("probe_name_not_found", target, f"{host} is not found: {seen.words}.", Remedy.run(f"dig {host}"))
        return
    if seen.problem:
        message = f"{target.url} does not answer: {seen.words.rstrip('.')}."
        yield _found("probe_unreachable", target, message, Remedy.run(f"curl -vk {target.url}"))
        return
    if seen.certificate:
        message = f"The certificate at {host} is not trusted here: {seen.certificate.rstrip('.')}."
        command = f"openssl s_client -connect {_address(target.url)}"
        yield _found("probe_certificate_refused", target, message, Remedy.run(command))
    if seen.status == 404:
        message = f"{host} answers 404: Traefik has no route for it."
        yield _found("probe_not_routed", target, message, Remedy.run(f"curl -vk {target.url}"))
    elif seen.status >= 500:
        message = f"{host} answers {seen.status}."
        yield _found("probe_bad_answer", target, message, Remedy.run(f"curl -vk {target.url}"))
    elif seen.websocket != 101 and seen.websocket not in _REFUSED_BY_THE_DOOR:
        message = f"{host} answers {seen.status}, but its WebSocket {seen.websocket}."
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
