"""The waiting page: what it says, to whom, how it follows, and when it resumes."""

import asyncio
import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from support.builders import a_template
from unit.gateway.api_stream import Events, events_of
from unit.gateway.edge_stage import (
    GUEST,
    OWNER,
    SETTINGS,
    STRANGER,
    EdgeStage,
    a_session,
    address,
    browser_events,
    changed,
    shared_with,
)
from unit.gateway.gateway_stage import Browser
from vdi.api.meta import Condition
from vdi.api.session import Phase, QueueStatus, Role, SessionResources
from vdi.cluster.units import format_time
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.stage import GONE, describe_stage
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.middleware import digest_of
from vdi.session.conditions import ADMITTED, POD_READY, TEMPLATE_FOUND

HERE = address(path="")
PROGRAM = {"Sec-Fetch-Mode": "cors", "Accept": "*/*"}
CLICKED = {"Sec-Fetch-User": "?1"}
XSS = "<script>alert(1)</script>"


def suspend(stage: EdgeStage) -> None:
    message = "The desktop's programs are closed. It starts again when it is resumed."
    stage.change(spec={"suspended": True}, status={"phase": Phase.SUSPENDED, "message": message})


def in_line(position: int = 3) -> dict[str, Any]:
    queue = QueueStatus(position=position, reason="GPUsBusy", earliest_slot="2026-11-20T14:30:00Z")
    return {
        "phase": Phase.PENDING,
        "queue": queue,
        "message": "all 4 nvidia.com/gpu are in use",
        "ready_time": "",
    }


async def test_who_stands_in_line_sees_place_reason_and_when(stage: EdgeStage) -> None:
    stage.change(status=in_line())
    page = await (await stage.logged_in(OWNER)).open(address())
    assert page.status_code == 200
    for words in (
        "Number 3 in line",
        "not enough suitable GPUs are free.",
        "You can close this page",
        'datetime="2026-11-20T14:30:00Z"',
        "aria-live",
    ):
        assert words in page.text
    assert page.headers["x-vdi-gateway"] == "1"
    assert page.headers["cache-control"] == "no-store"


async def test_a_start_shows_its_steps(stage: EdgeStage) -> None:
    conditions = (
        Condition(type=TEMPLATE_FOUND, status="True", reason="Found"),
        Condition(type=ADMITTED, status="True", reason="Admitted"),
        Condition(
            type=POD_READY,
            status="False",
            reason="ImagePulling",
            message="The image is being pulled.",
        ),
    )
    stage.change(
        status={
            "phase": Phase.CREATING,
            "message": "The image is being pulled.",
            "conditions": conditions,
        }
    )
    page = (await (await stage.logged_in(OWNER)).open(address())).text
    states = re.findall(r'class="wait-(done|now|todo)"', page)
    assert states == ["done", "done", "now", "todo", "todo"]
    assert page.count("The image is being pulled.") == 1


async def test_without_scripts_the_page_loads_itself_again(stage: EdgeStage) -> None:
    stage.change(status=in_line())
    browser = await stage.logged_in(OWNER)
    assert (
        '<noscript><meta http-equiv="refresh" content="5"></noscript>'
        in (await browser.open(address())).text
    )
    stage.change(status={"phase": Phase.RUNNING, "queue": None})
    page = await browser.get(address(path="/.vdi/wait?next=/files%3Fa%3Db"))
    assert (
        '<noscript><meta http-equiv="refresh" content="1;url=/files?a=b"></noscript>' in page.text
    )


async def test_a_new_desktop_is_asked_by_a_page_of_one_file(stage: EdgeStage) -> None:
    ready = format_time(stage.clock.now() - timedelta(seconds=4))
    stage.change(status={"phase": Phase.RUNNING, "ready_time": ready})
    page = await (await stage.logged_in(OWNER)).open(address(path="/?x=1"))
    assert (page.status_code, page.url.path) == (200, "/.vdi/open")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert f"script-src 'self' '{digest_of(script)}';" in page.headers["content-security-policy"]
    assert re.findall(r'(?:src|href)="([^"]*)"', page.text) == ["data:,"]
    data = dict(re.findall(r'data-(\w+)="([^"]*)"', page.text))
    assert data == {
        "health": "/api/health",
        "opens": "/?x=1&amp;v=1#token=edge",
        "waits": "/.vdi/wait?next=/%3Fx%3D1",
    }
    assert (page.headers["x-vdi-gateway"], page.headers["cache-control"]) == ("1", "no-store")


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.FAILED])
async def test_a_desktop_that_does_not_run_is_not_asked(stage: EdgeStage, phase: Phase) -> None:
    stage.change(status={"phase": phase, "ready_time": ""})
    browser = await stage.entered()
    for who in (browser, stage.browser()):
        answer = await who.get(address(path="/.vdi/open?next=/files"))
        assert (answer.status_code, answer.headers["location"]) == (302, "/.vdi/wait?next=/files")


async def test_what_people_and_images_say_is_shown_and_not_run(stage: EdgeStage) -> None:
    stage.change(status={"phase": Phase.FAILED, "message": XSS, "conditions": ()})
    browser = await stage.logged_in(OWNER)
    page = await browser.get(address(path=f"/.vdi/wait?next=/{XSS}%22onload=x"))
    page = await browser.open(address(path="/.vdi/wait?next=/%22%3E%3Cscript%3E"))
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script>" not in page.text
    events = await browser_events(stage, browser)
    assert "<script>" not in events[0]["summary"]


async def test_a_stranger_sees_no_waiting_page(stage: EdgeStage) -> None:
    suspend(stage)
    answer = await (await stage.logged_in(STRANGER)).open(address())
    assert (answer.status_code, "suspended" in answer.text) == (403, False)
    for path in ("/.vdi/events", "/api/health"):
        assert (await stage.browser().get(address(path=path), headers=PROGRAM)).status_code == 401


async def test_the_mark_tells_whether_a_gateway_serves(
    stage: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script fetches the page before it goes there: what counts is the mark, not the status."""
    stage.change(status=in_line())
    browser = await stage.entered()
    page = address(path="/.vdi/wait?next=/")
    for who, status in ((browser, 503), (stage.browser(), 401)):
        answer = await who.get(page, headers=PROGRAM)
        assert (answer.status_code, answer.headers["x-vdi-gateway"]) == (status, "1")

    async def fail(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailableError("it is down")

    monkeypatch.setattr(stage.edge._waiting.authorizer, "admit", fail)
    answer = await browser.get(page, headers=PROGRAM)
    assert (answer.status_code, "x-vdi-gateway" in answer.headers) == (503, False)


async def test_a_program_is_reported_to_come_again(stage: EdgeStage) -> None:
    suspend(stage)
    browser = await stage.entered()
    answer = await browser.get(address(path="/api/health"), headers=PROGRAM)
    assert (answer.status_code, answer.headers["x-vdi-gateway"]) == (503, "1")
    assert (await browser.post(address(path="/api/upload"))).status_code == 503
    assert (await browser.get(address(path="/.vdi/nothing"))).status_code == 404


# ---- resuming


async def test_the_owner_who_opens_the_address_by_hand_resumes(stage: EdgeStage) -> None:
    suspend(stage)
    browser = await stage.logged_in(OWNER)
    page = await browser.open(address(), headers=CLICKED)
    assert stage.resumed == [(OWNER, "alice-desktop")]
    assert "This desktop is suspended" not in page.text


async def test_a_page_that_loads_itself_again_does_not_resume(stage: EdgeStage) -> None:
    suspend(stage)
    browser = await stage.logged_in(OWNER)
    page = await browser.open(address())
    assert stage.resumed == []
    assert 'action="/.vdi/resume?next=/"' in page.text


async def test_a_reload_right_after_a_click_does_not_resume(stage: EdgeStage) -> None:
    """Chrome says Sec-Fetch-User then, too; with a grant that has ended the way leads through the
    portal.
    """
    browser = await stage.entered()
    suspend(stage)
    reloaded = {**CLICKED, "Sec-Fetch-Site": "same-origin"}
    assert "This desktop is suspended" in (await browser.open(address(), headers=reloaded)).text
    await stage.edge.revoker.end(user=OWNER)
    first = await browser.get(address(), headers=reloaded)
    second = await browser.get(HERE + first.headers["location"], headers=reloaded)
    page = await browser.open(
        second.headers["location"], headers={**CLICKED, "Sec-Fetch-Site": "same-site"}
    )
    assert "This desktop is suspended" in page.text
    assert stage.resumed == []
    await browser.open(address(), headers={**CLICKED, "Sec-Fetch-Site": "none"})
    assert len(stage.resumed) == 1


async def test_a_collaborator_may_and_a_viewer_waits(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "viewer"))
    suspend(stage)
    browser = await stage.logged_in(GUEST)
    page = await browser.open(address(), headers=CLICKED)
    assert f"It opens here when {OWNER} resumes it." in page.text
    assert "<form" not in page.text
    assert stage.resumed == []
    stage.change(spec=shared_with(GUEST, "collaborator"))
    await browser.open(address(), headers=CLICKED)
    assert [person for person, _ in stage.resumed] == [GUEST]


async def test_the_button_resumes_from_our_page_only(stage: EdgeStage) -> None:
    suspend(stage)
    browser = await stage.entered()
    for headers in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": address("bob-desktop", "")},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert (
            await browser.post(address(path="/.vdi/resume"), headers=headers)
        ).status_code == 403, headers
    assert (await browser.get(address(path="/.vdi/resume"))).status_code in (404, 405)
    assert stage.resumed == []
    answer = await browser.post(address(path="/.vdi/resume?next=/files"), headers={"Origin": HERE})
    assert (answer.status_code, answer.headers["location"]) == (303, "/.vdi/wait?next=/files")
    assert len(stage.resumed) == 1


async def test_the_owner_alone_starts_with_the_gpus_that_are_free(stage: EdgeStage) -> None:
    stage.put(a_template("office", resources={"maxGPU": 4}))
    queue = QueueStatus(position=1, reason="GPUsBusy", available_gpu=2)
    large = {**shared_with(GUEST, "collaborator"), "resources": SessionResources(gpu=3)}
    stage.change(spec=large, status=in_line() | {"queue": queue})
    guest, owner = await stage.logged_in(GUEST), await stage.logged_in(OWNER)
    assert "free now" not in (await guest.open(address())).text
    assert (
        await guest.post(address(path="/.vdi/resume?gpu=2"), headers={"Origin": HERE})
    ).status_code == 409
    assert 'action="/.vdi/resume?next=/&amp;gpu=2"' in (await owner.open(address())).text
    assert (await owner.post(address(path="/.vdi/resume?gpu=2"))).status_code == 403
    assert (
        await owner.post(address(path="/.vdi/resume?gpu=2"), headers={"Origin": HERE})
    ).status_code == 303
    assert stage.cluster.objects["alice-desktop"]["spec"]["resources"]["gpu"] == 2


async def test_a_limit_says_why_nothing_was_resumed(stage: EdgeStage) -> None:
    suspend(stage)
    stage.cluster.refuses = ActionDenied("OverLimit", "You may have 1 desktop at once.")
    browser = await stage.logged_in(OWNER)
    assert (
        "You may have 1 desktop at once." in (await browser.open(address(), headers=CLICKED)).text
    )
    answer = await browser.post(address(path="/.vdi/resume"), headers={"Origin": HERE})
    assert (answer.status_code, "You may have 1 desktop at once." in answer.text) == (409, True)


# ---- live


async def test_the_page_follows_every_stage_until_the_end(stage: EdgeStage) -> None:
    stage.change(status=in_line())
    browser = await stage.entered()
    steps: list[Any] = [
        lambda: stage.change(status=in_line(1)),
        lambda: stage.change(
            status={"phase": Phase.CREATING, "queue": None, "message": "The image is being pulled."}
        ),
        lambda: stage.change(status={"phase": Phase.RUNNING, "message": ""}),
        lambda: stage.drop(stage.session),
    ]
    events = await browser_events(stage, browser, *steps, most=9)
    assert [event["stage"] for event in events] == [
        "queued",
        "queued",
        "starting",
        "opening",
        "gone",
    ]
    assert "Number 1 in line" in events[1]["summary"]
    offers = ['data-notify="alice-desktop"' in event["steps"] for event in events]
    assert offers == [True, True, True, False, False]
    leaves = ["/desktops/alice-desktop/suspend" in event["steps"] for event in events]
    assert leaves == [True, True, False, False, False]


@pytest.mark.parametrize(
    "spec", [{"access": ()}, shared_with(GUEST, "collaborator")], ids=["share", "role"]
)
async def test_who_loses_share_or_role_is_sent_to_look_again(
    stage: EdgeStage, spec: dict[str, Any]
) -> None:
    stage.change(spec=shared_with(GUEST, "viewer"), status=in_line())
    browser = await stage.entered(GUEST)
    events = await browser_events(stage, browser, lambda: stage.change(spec=spec), most=9)
    assert [event["stage"] for event in events] == ["queued", "again"]


async def test_an_ended_grant_gets_no_stages(stage: EdgeStage) -> None:
    stage.change(status=in_line())
    browser = await stage.entered()
    assert [event["stage"] for event in await browser_events(stage, browser)] == ["queued"]
    await stage.edge.revoker.end(user=OWNER)
    with pytest.raises(AssertionError):
        await browser_events(stage, browser)


async def test_what_changes_nothing_for_the_reader_is_not_sent(stage: EdgeStage) -> None:
    stage.change(status=in_line())
    browser = await stage.entered()

    def twice() -> None:
        stage.change(status={"observed_generation": 7})
        stage.change(status=in_line(2))

    events = await browser_events(stage, browser, twice, most=2)
    assert [re.findall(r"Number (\d) in line", event["summary"]) for event in events] == [
        ["3"],
        ["2"],
    ]


def stream_of(
    stage: EdgeStage, browser: Browser, name: str = "alice-desktop"
) -> AbstractAsyncContextManager[Events]:
    """What the page's script does, on a connection that stays open."""
    host = SETTINGS.host(name)
    return events_of(stage.public, "/.vdi/events", {"Host": host, "Cookie": browser.stolen(host)})


async def test_one_person_does_not_hold_all_connections(
    stage: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.web.streams.MOST_PER_USER", 1)
    stage.change(spec=shared_with(GUEST, "collaborator"), status=in_line())
    stage.add(a_session("bobs-desktop", GUEST))
    guest, owner = await stage.logged_in(GUEST), await stage.logged_in(OWNER)
    for browser in (guest, owner):
        await browser.open(address())
    await guest.open(address("bobs-desktop"))
    for _ in range(2):
        async with stream_of(stage, guest) as events:
            assert (await events.next())[1]["stage"] == "queued"
            for name in ("alice-desktop", "bobs-desktop"):
                async with stream_of(stage, guest, name) as refused:
                    assert (refused.status, refused.headers["x-vdi-gateway"]) == (429, "1")
                    assert refused.headers["retry-after"] == "60"
            async with stream_of(stage, owner) as others:
                assert (await others.next())[1]["stage"] == "queued"


async def test_streams_that_are_opened_at_once_are_counted_too(
    stage: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.web.streams.MOST_PER_USER", 2)
    stage.change(status=in_line())
    browser = await stage.entered()
    async with AsyncExitStack() as stack:
        opened = await asyncio.gather(
            *(stack.enter_async_context(stream_of(stage, browser)) for _ in range(5))
        )
        assert sorted(events.status for events in opened) == [200, 200, 429, 429, 429]


# ---- stages, one by one


@pytest.mark.parametrize(
    ("spec", "status", "role", "key"),
    [
        ({}, {"phase": ""}, Role.OWNER, "starting"),
        ({}, {"phase": Phase.PENDING}, Role.OWNER, "starting"),
        ({}, {"phase": Phase.PENDING, "queue": QueueStatus()}, Role.OWNER, "queued"),
        ({}, {"phase": Phase.CREATING}, Role.VIEWER, "starting"),
        ({}, {"phase": Phase.RUNNING}, Role.VIEWER, "opening"),
        ({}, {"phase": Phase.FAILED}, Role.OWNER, "failed"),
        ({}, {"phase": Phase.TERMINATING}, Role.OWNER, "ending"),
        (
            {},
            {"phase": Phase.SUSPENDED},
            Role.OWNER,
            "starting",
        ),  # resumed, and not seen by the operator yet
        ({"suspended": True}, {"phase": Phase.RUNNING}, Role.OWNER, "suspended"),
        ({"suspended": True}, {"phase": Phase.TERMINATING}, Role.OWNER, "suspended"),
        ({"suspended": True}, {"phase": Phase.SUSPENDED}, Role.COLLABORATOR, "suspended"),
        ({}, {"phase": Phase.RUNNING}, None, "again"),
    ],
)
def test_stages(spec: dict[str, Any], status: dict[str, Any], role: Role | None, key: str) -> None:
    stage = describe_stage(changed(a_session(), spec=spec, status=status), role)
    assert stage.key == key
    assert stage.may_resume == (key == "suspended" and role in (Role.OWNER, Role.COLLABORATOR))
    assert stage.title


async def test_a_desktop_that_hangs_is_a_failure_with_a_way_out(stage: EdgeStage) -> None:
    hangs = Condition(POD_READY, "False", "NotResponding", "It hangs.", "2026-11-20T11:54:00Z")
    stage.change(
        status={"phase": Phase.CREATING, "conditions": (hangs,)}, spec=shared_with(GUEST, "viewer")
    )
    page = (await (await stage.logged_in(OWNER)).open(address())).text
    for words in (
        "<h1>Not responding</h1>",
        "It hangs.",
        '/desktops/alice-desktop/restart"',
        '<time datetime="2026-11-20T11:54:00Z">',
        'data-copy="Desktop alice-desktop of',
        '<noscript><meta http-equiv="refresh" content="5">',
    ):
        assert words in page
    assert not re.search(r"<progress|<li class=", page)
    guests = (await (await stage.logged_in(GUEST)).open(address())).text
    assert ("It hangs." in guests, "/restart" in guests) == (True, False)


async def test_a_desktop_without_a_home_says_so_while_it_starts(stage: EdgeStage) -> None:
    stage.put(a_template("bare", persistence={"enabled": False}))
    stage.change(spec={"template": "bare"}, status=in_line())
    browser = await stage.logged_in(OWNER)
    assert "Files here are deleted when this desktop ends" in (await browser.open(address())).text


def test_a_viewer_without_a_picture_reads_why() -> None:
    stage = describe_stage(
        changed(a_session(), status={"phase": Phase.RUNNING}), Role.VIEWER, "It takes no viewers."
    )
    assert (stage.key, stage.message) == ("denied", "It takes no viewers.")
    assert (
        describe_stage(changed(a_session(), status={"phase": Phase.CREATING}), Role.VIEWER, "x").key
        == "starting"
    )


def test_a_session_that_is_gone() -> None:
    assert describe_stage(None, Role.OWNER) is GONE
    ending = changed(a_session(), metadata={"deletion_timestamp": "2026-11-20T12:00:00Z"})
    assert describe_stage(ending, Role.OWNER).key == "ending"
