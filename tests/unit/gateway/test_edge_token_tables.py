"""Token tables on their way to a desktop that is slow, away, strange, or has forgotten
everything.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from support.builders import a_template
from support.desktop_key import KEY, MASTER, tokens_of
from support.waiting import eventually
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import (
    GUEST,
    HANDSHAKE,
    HOST,
    OWNER,
    EdgeStage,
    a_session,
    address,
    browser_events,
    shared_with,
)
from unit.gateway.gateway_stage import NAVIGATION, Browser
from vdi.api.session import Role
from vdi.gateway.desktop.agent import desktop_url
from vdi.gateway.edge import token_tables
from vdi.gateway.edge.selkies import gamepads, mark_of, marked, page_of, token_table
from vdi.gateway.store.logins import Grant, GrantStore
from vdi.session.credentials import KEY_SECRET, derive_pool_tokens, grant_token, subprotocols

UID = "uid-alice-desktop"


@pytest.fixture
async def stage(desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EdgeStage]:
    monkeypatch.setattr(token_tables, "PAUSES", (0.01,))
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


async def test_a_handshake_waits_until_the_desktop_knows_of_its_grant(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    alice = await stage.entered()
    await desktop.posted(1)
    desktop.tables.clear()  # its container was restarted
    answer = await stage.verify(HOST, "/api/websockets", Cookie=alice.stolen(HOST), **HANDSHAKE)
    (grant,) = await GrantStore(stage.database).open()
    assert (answer.status_code, list(desktop.table)) == (200, [grant_token(MASTER, grant.id)])


async def as_viewer(stage: EdgeStage) -> Browser:
    """A guest who may watch, and has come as far as the desktop lets them."""
    stage.change(spec=shared_with(GUEST, "viewer"))
    return await stage.entered(GUEST)


@pytest.mark.parametrize(
    "broken", ["answers 500", "does not respond", "is another image", "has lost the grant"]
)
async def test_a_viewer_enters_no_desktop_without_confirmation(
    stage: EdgeStage, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Only the desktop holds a viewer to the picture: who is not known to it is refused, with the
    reason.
    """
    stage.edge.verify.handshake_seconds = 0.05
    if broken == "does not respond":
        desktop.hangs = True
    elif broken == "has lost the grant":

        async def no_grants(_session: object) -> list[Grant]:
            return []

        monkeypatch.setattr(stage.edge.tables, "holding", no_grants)
    else:
        desktop.refuse = 500 if broken == "answers 500" else 404
    guest, owner = await as_viewer(stage), await stage.logged_in(OWNER)
    theirs = guest.stolen(HOST)
    for path, headers in (
        ("/api/websockets", HANDSHAKE),
        ("/api/ws", HANDSHAKE),
        ("/?v=1", {}),
        ("/x.js", {}),
    ):
        answer = await stage.verify(HOST, path, Cookie=theirs, **headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), path
        assert "View only is not possible now" in answer.text
    page = await stage.verify(HOST, "/?v=1", Cookie=theirs, **NAVIGATION)
    assert (page.status_code, page.headers["location"]) == (302, address(path="/.vdi/wait?next=/"))
    await owner.open(address())
    answer = await stage.verify(HOST, "/api/websockets", Cookie=owner.stolen(HOST), **HANDSHAKE)
    assert answer.status_code == 200, "an owner waits for no confirmation, and never for ever"


async def test_a_viewer_comes_to_no_desktop_without_a_template(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    """Its image may be one that takes any table and gives every visitor full control."""
    guest = await as_viewer(stage)
    await desktop.posted(1)
    template = stage.world.template("office")
    assert template is not None
    assert (await stage.verify(HOST, "/x.js", Cookie=guest.stolen(HOST))).status_code == 200
    stage.world.templates.observe_deleted(template)
    for path, headers in (("/api/websockets", HANDSHAKE), ("/x.js", {})):
        answer = await stage.verify(HOST, path, Cookie=guest.stolen(HOST), **headers)
        assert (answer.status_code, "template of this desktop was deleted" in answer.text) == (
            403,
            True,
        ), path
    assert (
        "template of this desktop was deleted" in (await guest.get(address(path="/.vdi/wait"))).text
    )


@pytest.mark.parametrize("broken", ["answers 404", "does not respond"])
async def test_a_viewers_page_says_why_and_opens_once_confirmed(
    stage: EdgeStage, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    stage.edge.verify.handshake_seconds = 0.05
    monkeypatch.setattr("vdi.gateway.edge.wait._CONFIRMATION_SECONDS", 0.01)
    monkeypatch.setattr(token_tables, "ANSWER_SECONDS", 0.05)
    desktop.refuse, desktop.hangs = (404, False) if broken == "answers 404" else (0, True)
    guest = await as_viewer(stage)
    await eventually(lambda: UID in stage.edge.tables._failing)
    stage.clock.forward(seconds=9)
    assert "The desktop is opening." in (await guest.open(address())).text, (
        "it may still be starting"
    )

    def time_passes() -> None:
        stage.clock.forward(seconds=1)

    def is_repaired() -> None:
        desktop.refuse, desktop.hangs = 0, False

    events = await browser_events(stage, guest, time_passes, is_repaired, most=3)
    assert [event["stage"] for event in events] == ["opening", "denied", "opening"]
    assert f"Ask {OWNER} to share it with full control" in events[1]["summary"]
    assert stage.edge.tables.has_taken(
        stage.session, next(iter(stage.edge.tables._taken[UID].grants))
    )
    assert (
        await stage.verify(HOST, "/?v=1", Cookie=guest.stolen(HOST), **NAVIGATION)
    ).status_code == 200


async def test_only_viewers_see_the_page_that_says_why(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    stage.edge.verify.handshake_seconds = 0.05
    desktop.refuse = 404
    guest, owner = await as_viewer(stage), await stage.logged_in(OWNER)
    await eventually(lambda: UID in stage.edge.tables._failing)
    stage.clock.forward(seconds=10)
    page = (await guest.open(address())).text
    assert "You cannot view this desktop" in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    await owner.open(address())
    assert "The desktop is opening." in (await owner.open(address(path="/.vdi/wait"))).text
    stage.change(status={"ready_time": "2026-11-20T12:00:09Z"})
    assert (await guest.open(address())).url.path == "/.vdi/open", "a new desktop has its own time"
    assert "The desktop is opening." in (await guest.open(address(path="/.vdi/wait"))).text


async def test_selkies_1_refuses_viewers_and_serves_collaborators(stage: EdgeStage) -> None:
    guest = await as_viewer(stage)
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-py-example:v1.6.2-ubuntu24.04"
    stage.put(a_template("office", image=image))
    theirs = guest.stolen(HOST)
    for path, headers in (("/api/websockets", HANDSHAKE), ("/?v=1", NAVIGATION), ("/x.js", {})):
        answer = await stage.verify(HOST, path, Cookie=theirs, **headers)
        assert answer.status_code == 403 and "retry-after" not in answer.headers, path
        assert "the image of this desktop has Selkies 1" in answer.text
    page = await guest.open(address(path="/.vdi/wait"))
    assert "the image of this desktop has Selkies 1" in page.text, (
        "who waited for its start reads it too"
    )

    stage.change(spec=shared_with(GUEST, "collaborator"))
    again = await stage.entered(GUEST)
    assert (await stage.verify(HOST, "/x.js", Cookie=again.stolen(HOST))).status_code == 200


async def test_a_viewer_comes_in_once_the_desktop_knows_them(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    stage.edge.verify.handshake_seconds = 0.05
    desktop.refuse = 500
    guest = await as_viewer(stage)
    assert "The desktop is opening." in (await guest.open(address())).text
    desktop.refuse = 0
    stage.edge.verify.handshake_seconds = 5.0
    assert (await guest.open(address())).status_code == 200
    posts = len(desktop.tables)
    for path in ("/x.js", "/y.js"):
        assert (await stage.verify(HOST, path, Cookie=guest.stolen(HOST))).status_code == 200
    assert len(desktop.tables) == posts, "what was confirmed is not asked for again"
    handshake = await stage.verify(HOST, "/api/websockets", Cookie=guest.stolen(HOST), **HANDSHAKE)
    assert (handshake.status_code, len(desktop.tables)) == (200, posts + 1), "but for a connection"


async def test_a_desktop_that_was_restarted_has_confirmed_no_one(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    guest = await as_viewer(stage)
    assert (await stage.verify(HOST, "/x.js", Cookie=guest.stolen(HOST))).status_code == 200
    stage.edge.verify.handshake_seconds = 0.05
    desktop.refuse = 500
    stage.change(status={"ready_time": "2026-11-20T12:00:09Z"})
    assert (await stage.verify(HOST, "/x.js", Cookie=guest.stolen(HOST))).status_code == 503


async def test_what_another_replica_has_posted_is_posted_again_here(
    desktop: FakeSelkies, stage: EdgeStage
) -> None:
    """A replica believes only what the desktop has confirmed to it; the table is that of all, out
    of the database.
    """
    guest = await as_viewer(stage)
    async with EdgeStage(**stage.shares, selkies=lambda _: desktop.url) as other:
        other.change(spec=shared_with(GUEST, "viewer"))
        count = len(desktop.tables)
        answer = await other.verify(HOST, "/api/websockets", Cookie=guest.stolen(HOST), **HANDSHAKE)
        assert (answer.status_code, len(desktop.tables)) == (200, count + 1)


async def test_nothing_is_kept_of_a_session_that_has_ended(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    await stage.edge.tables.posted(UID, 2)
    stage.drop(stage.session)
    assert stage.edge.tables._taken == {}


async def test_a_table_is_repeated_until_it_is_taken(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    desktop.refuse = 503
    stage.edge.tables.touch(UID)
    await eventually(lambda: desktop.refused > 1)
    assert desktop.tables == []
    desktop.refuse = 0
    await desktop.posted(1)


async def test_nothing_is_posted_to_a_desktop_that_should_not_run(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    desktop.refuse = 503
    stage.edge.tables.touch(UID)
    await eventually(lambda: desktop.refused)
    stage.change(spec={"suspended": True}, status={"phase": "Suspended"})
    await eventually(lambda: not stage.edge.tables._tasks)
    stage.edge.tables.touch("uid-of-nobody")
    await stage.edge.tables.posted("uid-of-nobody", 1)
    assert desktop.tables == []


async def test_many_askings_are_few_posts(stage: EdgeStage, desktop: FakeSelkies) -> None:
    for _ in range(50):
        stage.edge.tables.touch(UID)
    await asyncio.gather(*(stage.edge.tables.posted(UID, 2) for _ in range(50)))
    assert 1 <= len(desktop.tables) <= 3


async def test_what_changes_during_a_post_is_posted_again(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    alice = await stage.logged_in(OWNER)
    stage.edge.tables.touch(UID)
    await alice.open(address())
    await stage.edge.tables.posted(UID, 2)
    assert len(desktop.table) == 1


async def test_a_desktop_that_becomes_ready_gets_its_table(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    await stage.entered()
    await desktop.posted(1)
    stage.change(status={"phase": "Creating", "ready_time": ""})
    count = len(desktop.tables)
    stage.change(status={"phase": "Running", "ready_time": "2026-11-20T12:00:09Z"})
    await desktop.posted(count + 1)


async def test_another_key_is_read_after_a_refusal(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await stage.edge.tables.posted(UID, 2)
    desktop.master = tokens_of(key=b"n" * 32).password
    stage.cluster.put_secret(KEY_SECRET, key="n" * 32)
    count = len(desktop.tables)
    stage.edge.tables.touch(UID)
    await desktop.posted(count + 1)


async def test_a_desktop_of_a_pool_is_known_by_its_pod(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    desktop.master = derive_pool_tokens(KEY, namespace="vdi-sessions", pod="warm-3abc").password
    stage.change(status={"pod_name": "warm-3abc"})
    stage.edge.tables.touch(UID)
    await desktop.posted(1)


@pytest.mark.parametrize("entries", [{}, {"key": ""}, {"key": "short"}, {"other": "x"}])
async def test_without_a_master_token_the_desktop_stays_shut(
    desktop: FakeSelkies, entries: dict[str, str]
) -> None:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        alice = await stage.logged_in(OWNER)
        stage.cluster.put_secret(KEY_SECRET, **entries)
        answer = await alice.open(address())
        assert answer.status_code == 503
        assert desktop.seen == []


def test_the_token_is_the_grants_and_the_masters_alone() -> None:
    tokens = {grant_token(master, grant) for master in ("a", "b") for grant in ("x", "y")}
    assert len(tokens) == 4
    assert all(len(token) == 43 for token in tokens)
    assert "=" not in subprotocols("abc")


@pytest.mark.parametrize(
    ("role", "reported_role", "slot"),
    [
        (Role.OWNER, "controller", 1),
        (Role.COLLABORATOR, "controller", 2),
        (Role.VIEWER, "viewer", None),
    ],
)
def test_only_owners_and_collaborators_control(
    role: Role, reported_role: str, slot: int | None
) -> None:
    [reported] = token_table("m", [a_grant(role)]).values()
    assert reported == {"role": reported_role, "slot": slot}


def test_who_controls_has_gamepads_and_no_two_share_one() -> None:
    owner = [a_grant(Role.OWNER, hour=9), a_grant(Role.OWNER, hour=1)]
    assert gamepads(owner) == {OWNER: 1}
    guests = [a_grant(Role.COLLABORATOR, f"guest-{hour}", hour) for hour in (5, 4, 2, 3, 2)]
    assert gamepads([*owner, *guests[1:3]]) == {OWNER: 1, "guest-2": 2, "guest-4": 3}
    assert gamepads([*owner, *guests]) == {
        OWNER: 1,
        "guest-2": 2,
        "guest-3": 3,
        "guest-4": 4,
    }, "the fourth has none"


def a_grant(role: Role, user: str = OWNER, hour: int = 0) -> Grant:
    moment = datetime(2026, 11, 20, hour, tzinfo=UTC)
    return Grant(
        id=f"g-{user}-{hour}",
        session_uid=UID,
        user=user,
        role=role,
        login_id="l",
        created=moment,
        expires=moment,
    )


@pytest.mark.parametrize("uri", ["/", "/?a=b", "/files?a=b&c=d", "/x?"])
def test_the_mark_comes_and_goes(uri: str) -> None:
    assert page_of(uri) == uri
    for mark in ("1", "0123456789ab"):
        assert mark_of(marked(uri, mark)) == mark
        assert page_of(marked(uri, mark)).rstrip("?") == uri.rstrip("?")


def test_a_parameter_of_the_desktops_own_is_no_mark() -> None:
    for uri in ("/?v=2", "/?v=", "/?xv=1", "/?v=0123456789AB"):
        assert (mark_of(uri), page_of(uri)) == ("", uri)


@pytest.mark.parametrize(
    ("pod_ip", "url"),
    [
        ("10.42.0.7", "http://10.42.0.7:8080"),
        ("fd00:42::7", "http://[fd00:42::7]:8080"),
        (
            "",
            "http://alice-desktop.vdi-sessions.svc:8080",
        ),  # the operator is older than this gateway
        ("evil.example.com", "http://alice-desktop.vdi-sessions.svc:8080"),
    ],
)
def test_the_address_is_the_pods_own(pod_ip: str, url: str) -> None:
    session = a_session()
    session = msgspec.structs.replace(
        session, status=msgspec.structs.replace(session.status, pod_ip=pod_ip)
    )
    assert desktop_url(session, 8080) == url
