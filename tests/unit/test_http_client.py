"""The HTTP client: fixed addresses, cookies, certificates, and the limits of what it reads."""

import ast
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from httpcore._backends.anyio import AnyIOStream

import vdi
from support.hostile_server import DRIP, HOSTILE, Answer, serve_answer, whole
from support.web_server import serve_app
from vdi.http_client import (
    HTTP_ERRORS,
    BadResponseError,
    Response,
    is_of_machine,
    is_unknown_host,
    open_client,
    reason_of,
)


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
            assert (await client.request("GET", f"http://{host}/")).status == 200
    assert requests == [(host, ""), (host, "")]


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1%eth0",
        ),
        *(
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "ff02::1",
        ),
    ],
)
def test_addresses_of_the_machine_itself(address: str) -> None:
    assert is_of_machine(address)


@pytest.mark.parametrize(
    "address", ["10.43.0.1", "192.168.1.1", "203.0.113.7", "fd00:42::1", "2001:db8::1"]
)
def test_addresses_that_others_reach_too(address: str) -> None:
    assert not is_of_machine(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "cad.localhost"])
async def test_nothing_is_sent_to_the_machine_where_it_is_refused(
    server: tuple[int, list[tuple[str, str]]], host: str
) -> None:
    port, requests = server
    url = f"http://{host}:{port}/"
    async with open_client(url, seconds=5, to_machine=False) as client:
        with pytest.raises(
            HTTP_ERRORS, match=r"127\.0\.0\.1 is a loopback, link-local or metadata address"
        ):
            await client.request("GET", url)
    assert not requests


@pytest.mark.parametrize("to_machine", [True, False])
async def test_connection_without_an_address_is_an_error_of_the_network(
    server: tuple[int, list[tuple[str, str]]], to_machine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after a reset that comes at once, which any desktop can send.
    monkeypatch.setattr(AnyIOStream, "get_extra_info", lambda _self, _info: None)
    url = f"http://127.0.0.1:{server[0]}/"
    async with open_client(url, seconds=5, to_machine=to_machine) as client:
        if to_machine:
            assert (await client.request("GET", url)).status == 200
        else:
            with pytest.raises(HTTP_ERRORS, match="has reset the connection"):
                await client.request("GET", url)


async def test_an_address_replaces_the_resolution_of_a_name(
    server: tuple[int, list[tuple[str, str]]],
) -> None:
    port, requests = server
    async with open_client(
        "http://nobody.invalid", seconds=5, connect=f"127.0.0.1:{port}"
    ) as client:
        assert (await client.request("GET", "http://nobody.invalid/")).status == 200
    assert requests == [("nobody.invalid", "")]


@pytest.mark.parametrize(
    ("url", "unknown", "reason"),
    [
        ("http://nobody.invalid/", True, "cannot resolve its host name: "),
        ("http://127.0.0.1:1/", False, "127.0.0.1"),
        ("no-url", False, "protocol"),
    ],
)
async def test_an_error_has_the_systems_reason(url: str, unknown: bool, reason: str) -> None:
    async with open_client(url, seconds=5) as client:
        with pytest.raises(HTTP_ERRORS) as failed:
            await client.request("GET", url)
    assert is_unknown_host(failed.value) is unknown
    assert reason in reason_of(failed.value)


async def received(answer: Answer, *, max_bytes: int = 2**16, seconds: float = 5.0) -> Response:
    """What a request gets, which asked for no compression."""
    async with serve_answer(answer) as server, open_client(server.url, seconds=5) as client:
        try:
            return await client.request("GET", server.url, max_bytes=max_bytes, seconds=seconds)
        finally:
            assert b"\r\nAccept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_answers_are_refused_and_take_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(HTTP_ERRORS):
            (await received(HOSTILE[name])).json(dict[str, object])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            HOSTILE["nested"],
            "the response has Content-Encoding 'gzip, gzip, gzip'; allowed: identity",
        ),
        (HOSTILE["endless chunks"], "the response is too large: more than 65536 bytes"),
        (HOSTILE["chunks of one byte"], "the response has too many chunks of less than 128 bytes"),
        (
            HOSTILE["endless informational responses"],
            "no header of the response within 131072 bytes",
        ),
        (
            HOSTILE["deep JSON"],
            "the response cannot be read as dict: maximum recursion depth exceeded",
        ),
        (
            HOSTILE["length above what comes"],
            "peer closed connection without sending complete message body",
        ),
    ],
)
async def test_a_refusal_names_the_limit(answer: Answer, reason: str) -> None:
    with pytest.raises(HTTP_ERRORS) as refused:
        (await received(answer)).json(dict[str, object])
    assert reason in reason_of(refused.value)


async def test_what_is_within_the_limits_is_read() -> None:
    exact = whole(b"x" * 100, "Content-Encoding: Identity")
    assert await received(exact, max_bytes=100) == Response(200, b"x" * 100)
    with pytest.raises(BadResponseError, match="more than 99 bytes"):
        await received(exact, max_bytes=99)


async def test_an_answer_that_does_not_end_is_given_up() -> None:
    with pytest.raises(TimeoutError) as late:
        await received(Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"), seconds=0.2)
    assert reason_of(late.value) == "no response in time"


async def test_a_request_has_the_time_of_its_client() -> None:
    async with serve_answer(DRIP) as server, open_client(server.url, seconds=0.2) as client:
        with pytest.raises(TimeoutError):
            await client.request("GET", server.url)


async def test_the_limit_before_the_header_is_one_of_each_request() -> None:
    hints = whole(b"x" * 2**18)
    answer = Answer(b"HTTP/1.1 103 Early Hints\r\nX: " + b"y" * 70_000 + b"\r\n\r\n" + hints.first)
    async with serve_answer(answer) as server, open_client(server.url, seconds=5) as client:
        for _ in range(3):
            assert len((await client.request("GET", server.url)).body) == 2**18


async def test_lines_have_a_largest_length_and_a_start_has_its_bytes() -> None:
    async with (
        serve_answer(whole(b"a\n" + b"b" * 70_000 + b"\n\nc")) as server,
        open_client(server.url, seconds=5) as http,
    ):
        async with http.stream("GET", server.url) as response:
            assert [line async for line in response.lines()] == [b"a", b"b" * 70_000, b""]
        async with http.stream("GET", server.url) as response:
            assert await response.start(3) == b"a\nb"
        async with http.stream("GET", server.url) as response:
            with pytest.raises(
                BadResponseError, match="a line of the response is too long: more than 69999 bytes"
            ):
                assert [line async for line in response.lines(69_999)]


# Who may import a client: httpx decompresses what it reads, so no one else meets a response of its.
CLIENTS = {
    "httpx": ["client/desktop.py", "client/transport.py", "http_client.py"],
    "websockets": ["latency_probe/client.py"],
    "urllib.request": [
        "devcluster/binaries/download.py",
        "devcluster/images/base.py",
        "http_client.py",
    ],
    "http.client": [
        "devcluster/binaries/download.py",
        "devcluster/fake_gpus.py",
        "devcluster/status.py",
        "devcluster/supervisor.py",
    ],
}


def test_no_one_else_reads_answers() -> None:
    source = Path(vdi.__file__).parent
    others = ("aiohttp", "h11", "httpcore", "pycurl", "requests", "urllib3")
    names = {name.partition(".")[0] for name in (*CLIENTS, *others)}
    texts = {
        str(path.relative_to(source)): path.read_text() for path in sorted(source.rglob("*.py"))
    }
    mentions = re.compile(rf"\b(?:import|from) +(?:{'|'.join(names)})\b")
    trees = {file: ast.parse(text) for file, text in texts.items() if mentions.search(text)}
    users: dict[str, list[str]] = {name: [] for name in (*CLIENTS, *others)}
    for file, tree in trees.items():
        imported = {name for node in ast.walk(tree) for name in imported_by(node)}
        for client, its_users in users.items():
            if any(name == client or name.startswith(f"{client}.") for name in imported):
                its_users.append(file)
    assert {client: its_users for client, its_users in users.items() if its_users} == CLIENTS
    calls = {
        file: [node for node in ast.walk(trees[file]) if isinstance(node, ast.Call)]
        for files in CLIENTS.values()
        for file in files
    }
    for client in ("urllib.request", "http.client"):
        for file in CLIENTS[client]:
            unbounded = [ast.unparse(call) for call in calls[file] if reads(call) and not call.args]
            assert not unbounded, f"{file} reads without a limit: {unbounded}"
    for file in CLIENTS["websockets"]:
        (opened,) = [
            call
            for call in calls[file]
            if isinstance(call.func, ast.Name) and call.func.id == "connect"
        ]
        options = {option.arg: ast.unparse(option.value) for option in opened.keywords}
        assert (options["compression"], options["max_size"]) == ("None", "MAX_MESSAGE_BYTES"), file


def reads(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in (
        "read",
        "readlines",
        "readall",
    )


def imported_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [name.name for name in node.names]
        case ast.ImportFrom(module=str(module)):
            return [module, *(f"{module}.{name.name}" for name in node.names)]
        case _:
            return []
