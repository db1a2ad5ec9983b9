"""What a browser, a fragment and a script see of a refusal; and never more than it should."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.gateway.denied import ActionDenied
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.render import ErrorPages

FAULTS: dict[str, Exception] = {
    "refused": ActionDenied("OverLimit", "You may have 1 desktop <at> once."),
    "gone": HTTPException(404),
    "words": HTTPException(403, "This is <b>not</b> yours."),
    "login": HTTPException(303, "log in", {"Location": "/login"}),
    "database": DatabaseUnavailableError("password authentication failed for user vdi"),
    "redis": SharedUnavailableError("Error 111 connecting to redis.internal:6379"),
    "bug": RuntimeError("secret detail"),
}


async def fail(request: Request) -> Response:
    raise FAULTS[request.path_params["fault"]]


async def ask(fault: str, **headers: str) -> httpx.Response:
    app = Starlette(
        routes=[Route("/{fault}", fail)], exception_handlers=ErrorPages(Settings()).handlers()
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://portal.vdi.localhost"
    ) as client:
        return await client.get(f"/{fault}", headers=headers)


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("refused", 409, "You may have 1 desktop &lt;at&gt; once."),
        ("gone", 404, "This page does not exist."),
        ("words", 403, "This is &lt;b&gt;not&lt;/b&gt; yours."),
        ("database", 503, "cannot reach its database"),
        ("redis", 503, "Open desktops are not affected"),
        ("bug", 500, "Something went wrong"),
    ],
)
async def test_a_browser_gets_a_page_with_one_escaped_sentence(
    fault: str, status: int, words: str
) -> None:
    answer = await ask(fault, accept="text/html")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert words in answer.text
    assert "secret detail" not in answer.text
    assert "password authentication" not in answer.text
    assert "redis.internal" not in answer.text


async def test_scripts_and_fragments_get_the_sentence_alone() -> None:
    for headers in ({"accept": "*/*"}, {"accept": "text/html", "hx-request": "true"}):
        answer = await ask("refused", **headers)
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == "You may have 1 desktop <at> once.\n"


async def test_a_redirect_stays_one() -> None:
    answer = await ask("login", accept="text/html")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_a_database_that_is_down_says_when_to_try_again() -> None:
    assert (await ask("database")).headers["retry-after"] == "10"
