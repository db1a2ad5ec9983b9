"""The client of a gateway's REST API, against a server on loopback."""

from aiohttp import web

from support.web_server import serve_app
from vdi.cli.remote.client import GatewayClient


async def test_an_event_may_contain_every_character_of_json() -> None:
    async def events(_: web.Request) -> web.Response:
        return web.Response(
            text='event: session\ndata: {"a": "x\u2028y\x85z"}\r\n\r\n: comment\n\nevent: ready\ndata: {}\n\n'
        )

    app = web.Application()
    app.router.add_get("/api/v1/events", events)
    async with (
        serve_app(app) as port,
        GatewayClient(f"http://127.0.0.1:{port}") as client,
        client.events("/events") as stream,
    ):
        assert [event async for event in stream] == [("session", '{"a": "x\u2028y\x85z"}'), ("ready", "{}")]
