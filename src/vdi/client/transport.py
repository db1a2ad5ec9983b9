"""Sends the requests of an operation with httpx: `Blocking` for threads, `Async` for asyncio.

An operation is a generator of requests without I/O, so that it is written once. Names below `localhost`, such as a
demo's `portal.vdi.localhost`, go to 127.0.0.1: few resolvers know them.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar, overload

import httpx
import msgspec

from vdi.client.errors import Unreachable, VdiError

T = TypeVar("T")
P = ParamSpec("P")
# Typing 4,000 characters takes 100 s, and an action waits at most 60 s.
_TIMES = httpx.Timeout(150, connect=20)
# The largest screenshot has 4096x4096 pixels.
_MAX_BYTES = 64 << 20
_LOOPBACK = "127.0.0.1"


class Portal(TypedDict, total=False):
    """Portal and login, each by default from the environment.

    `server`: VDI_SERVER, such as `https://portal.vdi.example.com`; `http://` on this machine only.
    `token`: VDI_TOKEN, an API token. `ca_file`: SSL_CERT_FILE, else the machine's authorities.
    """

    server: str
    token: str
    ca_file: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the portal. `delay`: seconds to wait before it is sent."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    delay: float = 0.0


@dataclass(slots=True)
class Response:
    """A response while its body is read."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def add(self, piece: bytes) -> None:
        if "Content-Encoding" in self.headers or len(self.body) + len(piece) > _MAX_BYTES:
            raise Unreachable(f"The response is compressed, or has more than {_MAX_BYTES} bytes.")
        self.body += piece


Steps = Generator[Request, Response, T]


@lru_cache(maxsize=8)
def _authorities(ca_file: str) -> ssl.SSLContext:
    # Kept: the machine's take 45 ms to load, and a fleet opens many desktops.
    return ssl.create_default_context(cafile=ca_file or None)


def _options(portal: Portal) -> dict[str, Any]:
    """Options of httpx' clients. Raises VdiError."""
    server = portal.get("server") or os.environ.get("VDI_SERVER", "")
    token = portal.get("token") or os.environ.get("VDI_TOKEN", "")
    ca_file = portal.get("ca_file") or os.environ.get("SSL_CERT_FILE", "")
    try:
        url = httpx.URL(server.rstrip("/"))
        tls = _authorities(ca_file)
    except (httpx.InvalidURL, OSError) as error:
        raise VdiError(f"Cannot use the portal {server!r} with {ca_file!r}: {error}.") from error
    is_name = url.host == "localhost" or url.host.endswith(".localhost")
    is_local = is_name or url.host in (_LOOPBACK, "::1")
    # A token must not go over a network in the open.
    if not url.host or url.scheme not in ("https", "http" if is_local else "https"):
        raise VdiError(
            f"{server!r} is not the address of a portal. Set VDI_SERVER, such as"
            " https://portal.vdi.example.com (http:// on this machine only)."
        )
    if not (token and token.isascii() and token.isprintable()):
        raise VdiError("There is no API token. Set VDI_TOKEN, such as vdi_...")
    return {
        "base_url": url.copy_with(host=_LOOPBACK) if is_name else url,
        "headers": {
            "Authorization": f"Bearer {token}",
            "Accept-Encoding": "identity",
            "Host": url.netloc.decode(),
        },
        "verify": tls,
        "timeout": _TIMES,
        "trust_env": not is_local,  # proxies
    }


def _arguments(request: Request, client: httpx.Client | httpx.AsyncClient) -> dict[str, Any]:
    """Arguments of httpx' `stream`."""
    more: dict[str, Any] = {}
    if request.body is not None:
        more["content"] = msgspec.json.encode(request.body)
        more["headers"] = {"Content-Type": "application/json"}
    host = httpx.URL(f"//{client.headers['Host']}").host
    return {
        "method": request.method,
        "url": request.path,
        "extensions": {"sni_hostname": host},
        **more,
    }


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"The portal did not respond: {error or type(error).__name__}.")


class Blocking:
    """Something of one desktop for blocking programs. `name`: the desktop's."""

    def __init__(self, name: str, client: httpx.Client) -> None:
        self.name, self._client = name, client

    def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                time.sleep(request.delay)
                request = steps.send(self._send(request))
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: Request) -> Response:
        try:
            with self._client.stream(**_arguments(request, self._client)) as received:
                response = Response(received.status_code, received.headers)
                for piece in received.iter_raw():
                    response.add(piece)
        except (httpx.HTTPError, OSError) as error:
            raise _unreachable(error) from error
        return response


class Async:
    """Something of one desktop for programs with asyncio. `name`: the desktop's."""

    def __init__(self, name: str, client: httpx.AsyncClient) -> None:
        self.name, self._client = name, client

    async def _run(self, steps: Steps[T]) -> T:
        try:
            request = next(steps)
            while True:
                await asyncio.sleep(request.delay)
                request = steps.send(await self._send(request))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: Request) -> Response:
        try:
            async with self._client.stream(**_arguments(request, self._client)) as received:
                response = Response(received.status_code, received.headers)
                async for piece in received.aiter_raw():
                    response.add(piece)
        except (httpx.HTTPError, OSError) as error:
            raise _unreachable(error) from error
        return response


def open_client(portal: Portal) -> httpx.Client:
    return httpx.Client(**_options(portal))


def open_async_client(portal: Portal) -> httpx.AsyncClient:
    return httpx.AsyncClient(**_options(portal))


class operation(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that is written as Steps: its result in a `Blocking`, an awaitable in an `Async`."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, owner: Blocking, kind: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Async, kind: object) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, owner: None, kind: object) -> Callable[..., Steps[T]]: ...
    def __get__(self, owner: Any, kind: object) -> Callable[..., Any]:
        if owner is None:
            return self._steps
        return partial(self._call, owner)

    def _call(self, owner: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return owner._run(self._steps(owner, *args, **kwargs))
