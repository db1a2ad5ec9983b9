"""The small picture of a desktop: its owner alone gets it, what an agent sends is checked, and
nothing is kept.
"""

import io
from typing import Any

import pytest
from PIL import Image

from unit.gateway.portal_stage import ADMIN, BOB, PortalStage, a_template, running
from vdi.gateway.desktop.agent_requests import MAX_THUMBNAILS
from vdi.gateway.desktop.thumbnail import THUMBNAIL_MAX_SIDE, jpeg_size
from vdi.gateway.rights import User

PATH = "/desktops/alice-desktop/thumbnail"
EVE = User("eve@example.com", "Eve", login_id="login-eve")


def a_jpeg(size: tuple[int, int] = (320, 180), **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, "JPEG", **options)
    return data.getvalue()


@pytest.fixture
def stage() -> PortalStage:
    stage = PortalStage(a_template(), running(access=[{"user": BOB.email, "role": "collaborator"}]))
    stage.agent.screens["alice-desktop"] = a_jpeg()
    return stage


async def test_the_owner_gets_the_picture_and_no_one_keeps_it(stage: PortalStage) -> None:
    answer = await stage.browser().get(PATH)
    assert (answer.status_code, answer.content) == (200, stage.agent.screens["alice-desktop"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert stage.agent.asked == ["GET /thumbnail of alice-desktop"]
    stage.put(running("roots", user=ADMIN.email))
    stage.agent.screens["roots"] = a_jpeg()
    assert (await stage.browser(ADMIN).get("/desktops/roots/thumbnail")).status_code == 200, (
        "an administrator's own"
    )


@pytest.mark.parametrize(
    ("person", "status", "words"),
    [
        (None, 401, "You are not signed in"),
        (EVE, 404, "You have no desktop"),
        (BOB, 403, "Only the owner of desktop"),
        (ADMIN, 403, "Only the owner of desktop"),
    ],
)
async def test_no_one_else_gets_it_and_the_agent_is_not_asked(
    stage: PortalStage, person: User | None, status: int, words: str
) -> None:
    answer = await stage.browser(person).get(PATH)
    assert (answer.status_code, stage.agent.asked) == (status, [])
    assert words in answer.text


async def test_a_page_that_no_one_looks_at_does_not_keep_a_login_alive(stage: PortalStage) -> None:
    browser = stage.browser()
    assert (await browser.get("/")).status_code == 200
    begun = stage.last_seen
    stage.clock.forward(minutes=5)
    assert (await browser.get(PATH)).status_code == 200
    assert stage.last_seen == begun
    await browser.get("/")
    assert stage.last_seen == stage.clock.wall


@pytest.mark.parametrize(
    "change",
    [
        {"template": {"thumbnails": False}},
        {"session": {"status": {"phase": "Suspended"}}},
        {"session": {"suspended": True}},
        {"session": {"template": "gone"}},
        {"session": {"deleting": True}},
    ],
)
async def test_without_a_picture_neither_card_nor_address_has_one(
    stage: PortalStage, change: dict[str, Any]
) -> None:
    assert PATH in await stage.browser().html("/")
    stage.put(a_template(**change.get("template", {})), running(**change.get("session", {})))
    assert "data-thumbnail" not in await stage.browser().html("/")
    assert (await stage.browser().get(PATH)).status_code == 204
    assert stage.agent.asked == []


async def test_cards_of_others_have_no_place_for_it(stage: PortalStage) -> None:
    shared = await stage.browser(BOB).html("/shared")
    assert "alice-desktop" in shared and "data-thumbnail" not in shared
    assert "data-thumbnail" not in await stage.browser(ADMIN).html("/admin/sessions")


@pytest.mark.parametrize(
    ("status", "body", "answered"),
    [
        (404, b"there is GET /activity", 404),
        (503, b"the screen can't be captured", 503),
        (302, b"", 503),
        (401, b"a token is needed", 503),
        (200, b"", 409),
        (200, b"<html>", 409),
        (200, b"\x89PNG\r\n\x1a\n", 409),
        (200, b"\xff\xd8\xff", 409),
        (200, a_jpeg((THUMBNAIL_MAX_SIDE + 1, 10)), 409),
    ],
)
async def test_what_an_agent_sends_is_a_strangers_word(
    stage: PortalStage, status: int, body: bytes, answered: int
) -> None:
    stage.agent.status, stage.agent.screens["alice-desktop"] = status, body
    answer = await stage.browser().get(PATH)
    assert answer.status_code == answered
    assert not answer.headers["content-type"].startswith("image/")


async def test_one_desktop_has_so_many_pictures_a_minute_and_no_more(stage: PortalStage) -> None:
    browser = stage.browser()
    assert [(await browser.get(PATH)).status_code for _ in range(MAX_THUMBNAILS + 1)] == [
        200
    ] * MAX_THUMBNAILS + [429]
    assert len(stage.agent.asked) == MAX_THUMBNAILS
    stage.put(running("another"))
    stage.agent.screens["another"] = a_jpeg()
    assert (await browser.get("/desktops/another/thumbnail")).status_code == 200
    assert (await browser.get(PATH)).headers["retry-after"] == "60"


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True, "comment": b"x" * 300}]
)
def test_the_size_is_read_from_the_jpeg_itself(options: dict[str, Any]) -> None:
    assert jpeg_size(a_jpeg((33, 44), **options)) == (33, 44)


def test_truncated_and_random_jpegs_do_not_fail_the_reader() -> None:
    whole = a_jpeg()
    for length in range(len(whole)):
        assert jpeg_size(whole[:length]) in (None, (320, 180))
    assert jpeg_size(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 40) is None
