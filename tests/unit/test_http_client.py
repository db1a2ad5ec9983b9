"""The HTTP client: fixed addresses, cookies, certificates."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from support.web_server import serve_app
from vdi.http_client import HTTP_ERRORS, is_unknown_host, open_client, reason_of


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, list[tuple[str, str]]]]:
    """Its port, and (Host, Cookie) of each request; it sets a cookie."""
    requests: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append((request.host, request.headers.get("Cookie", "")))
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    app = web.Application()
    app.router.add_get("/", answer)
    async with serve_app(app) as port:
        yield port, requests


async def test_names_below_localhost_are_this_machine_and_no_cookie_is_kept(
    server: tuple[int, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, requests = server
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    host = f"alice.vdi.localhost:{port}"
    async with open_client(f"http://{host}", seconds=5) as client:
        for _ in range(2):
            assert (await client.get(f"http://{host}/")).status_code == 200
    assert requests == [(host, ""), (host, "")]


async def test_an_address_replaces_the_resolution_of_a_name(server: tuple[int, list[tuple[str, str]]]) -> None:
    port, requests = server
    async with open_client("http://nobody.invalid", seconds=5, connect=f"127.0.0.1:{port}") as client:
        assert (await client.get("http://nobody.invalid/")).status_code == 200
    assert requests == [("nobody.invalid", "")]


@pytest.mark.parametrize(
    ("url", "unknown", "reason"),
    [
        ("http://nobody.invalid/", True, "known"),
        ("http://127.0.0.1:1/", False, "127.0.0.1"),
        ("no-url", False, "protocol"),
    ],
)
async def test_an_error_has_the_systems_reason(url: str, unknown: bool, reason: str) -> None:
    async with open_client(url, seconds=5) as client:
        with pytest.raises(HTTP_ERRORS) as failed:
            await client.get(url)
    assert is_unknown_host(failed.value) is unknown
    assert reason in reason_of(failed.value)
