"""Measures what lies outside the API: names, ports, programs, the web UI. Everything with a time limit."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Iterable
from functools import partial

from vdi.helm.binary import find_helm
from vdi.helm.errors import HelmUnavailable
from vdi.http_client import HTTP_ERRORS, TIMEOUTS, certificate_error, open_client, reason_of, unverified
from vdi.kasm.preflight.facts import Answer, Probe, Resolution, Tool

_CONNECT_SECONDS = 2.0
_HTTP_SECONDS = 10.0
_TOOL_SECONDS = 20.0
_BODY = 2000
"""So many bytes of an answer are kept."""


async def resolve(host: str) -> Resolution | None:
    """The addresses of a name, as programs on this machine get them; None for an empty name."""
    if not host:
        return None
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Resolution(host, problem=getattr(error, "strerror", None) or str(error))
    return Resolution(host, tuple(sorted({str(one[4][0]) for one in found})))


async def probe(targets: Iterable[tuple[str, int]]) -> tuple[Probe, ...]:
    """Whether anybody takes connections there."""
    return tuple(await asyncio.gather(*(_connect(address, port) for address, port in targets)))


async def _connect(address: str, port: int) -> Probe:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return Probe(address, port, "refused")
    except (OSError, TimeoutError):
        return Probe(address, port, "silent")
    writer.close()
    return Probe(address, port, "open")


async def read_tools() -> dict[str, Tool]:
    """helm and kubectl in PATH."""
    helm, kubectl = await asyncio.gather(_helm(), _kubectl())
    return {helm.name: helm, kubectl.name: kubectl}


async def _helm() -> Tool:
    try:
        found = await asyncio.to_thread(find_helm)
    except HelmUnavailable as error:
        return Tool("helm", problem=str(error))
    return Tool("helm", ".".join(str(number) for number in found.version))


async def _kubectl() -> Tool:
    path = shutil.which("kubectl")
    if path is None:
        return Tool("kubectl", problem="kubectl is not in PATH")
    words = (path, "version", "--client", "--output", "json")
    run = partial(subprocess.run, words, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False)
    try:
        done = await asyncio.to_thread(run)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tool("kubectl", problem=f"{path} cannot be run: {error}")
    try:
        return Tool("kubectl", str(json.loads(done.stdout)["clientVersion"]["gitVersion"]))
    except (ValueError, KeyError, TypeError):
        return Tool("kubectl", problem=f"{path} version prints {done.stderr.strip() or 'no version in its output'}")


async def ask(method: str, url: str, *, connect: str = "") -> Answer:
    """One request over the machine's own way out (proxies of the environment).

    `connect` is ADDRESS or ADDRESS:PORT, to go there in the place of what the URL's host resolves to. A certificate
    that is not trusted is noted, and the question asked again without looking at it.
    """
    try:
        return await _ask(method, url, connect, trust=True)
    except HTTP_ERRORS as error:
        if certificate_error(error) is None:
            return Answer(url, problem=_words(error))
    try:
        return await _ask(method, url, connect, trust=False)
    except HTTP_ERRORS as error:
        return Answer(url, problem=_words(error), trusted=False)


async def _ask(method: str, url: str, connect: str, *, trust: bool) -> Answer:
    tls = None if trust else unverified()
    async with (
        asyncio.timeout(_HTTP_SECONDS),
        open_client(url, seconds=_HTTP_SECONDS, tls=tls, connect=connect) as client,
        client.stream(method, url) as answer,
    ):
        return Answer(url, answer.status, (await answer.start(_BODY)).decode(errors="replace"), trusted=trust)


def _words(error: Exception) -> str:
    return f"no response within {_HTTP_SECONDS:g} s" if isinstance(error, TIMEOUTS) else reason_of(error)
