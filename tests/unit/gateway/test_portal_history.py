"""History, usage and files of both: whose they are, how one reads on, and a database that is
down.
"""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from msgspec.structs import replace

from unit.gateway.gateway_stage import NOW, a_past
from unit.gateway.portal_stage import ADMIN, ALICE, BOB, PortalStage, a_template, running, text_of
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.memory_kills import MemoryKills
from vdi.gateway.limits import read_limits
from vdi.gateway.portal.history import PAGE_SIZE, run_time, shares, timeline_of
from vdi.gateway.rights import User
from vdi.gateway.store.audit import Act
from vdi.gateway.store.history import EndReason, RunRow


def past(number: int, user: str = ALICE.email, **run: Any) -> SessionHistory:
    created = NOW - timedelta(hours=number)
    end: dict[str, Any] = {
        "ended": created + timedelta(minutes=30),
        "end_reason": EndReason.TIMEOUT,
    }
    row = replace(a_past(f"uid-{number}", user, created=created), name=f"desk-{number}", **end)
    return SessionHistory(row, (RunRow(uid=row.uid, start=created, **end, **run),))


@pytest.fixture
def stage() -> PortalStage:
    stage = PortalStage()
    for one in [*map(past, range(PAGE_SIZE + 20)), past(1000, "bob@example.com")]:
        stage.remember(one.session, *one.runs)
    return stage


async def test_mine_are_listed_and_read_on_to_the_end(stage: PortalStage) -> None:
    browser = stage.browser()
    first = await browser.html("/history")
    assert first.count("Time limit reached") == PAGE_SIZE
    where = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    second = await browser.html(where)
    assert second.count("Time limit reached") == 20
    assert "Older" not in second
    assert "desk-1000" not in first + second


async def test_everyones_is_for_administrators(stage: PortalStage) -> None:
    assert "bob@example.com" not in await stage.browser().html("/history?of=everyone")
    admin = stage.browser(ADMIN)
    assert "Nothing yet" in await admin.html("/history")
    assert "alice@example.com" in await admin.html("/history?of=everyone")
    assert "desk-1000" in await admin.html("/history?of=everyone&user=BOB@example.com")


async def test_a_place_that_is_none_is_refused(stage: PortalStage) -> None:
    assert (await stage.browser().get("/history?cursor=yesterday")).status_code == 422


@pytest.mark.parametrize("page", ["/history", "/history/usage"])
@pytest.mark.parametrize(
    ("person", "of", "bob"), [(ALICE, "", False), (ADMIN, "?of=everyone", True)]
)
async def test_files_of_a_page_have_its_users(
    stage: PortalStage, page: str, person: User, of: str, bob: bool
) -> None:
    stage.use(ALICE.email, 1.0)
    stage.use("bob@example.com", 1.0)
    browser = stage.browser(person)
    links = re.findall(r'href="([^"]*)" download', await browser.html(page + of))
    assert len(links) == 2
    for link in links:
        answer = await browser.get(unescape(link))
        assert (
            answer.status_code,
            ALICE.email in answer.text,
            "bob@example.com" in answer.text,
        ) == (200, True, bob)


async def test_a_database_that_is_down_is_said_everywhere(stage: PortalStage) -> None:
    stage.lose_history()
    browser = stage.browser()
    for path in ("/history", "/history/usage"):
        answer = await browser.get(path)
        assert (answer.status_code, "The history cannot be read" in answer.text) == (200, True)
    assert (await browser.get("/api/v1/export?what=sessions")).status_code == 503


async def test_usage_is_by_month_and_person() -> None:
    stage, october = PortalStage(), NOW - timedelta(days=31)
    stage.use(ALICE.email, 1.5, gpus=2, queue_seconds=90.0, startup_seconds=2.25)
    stage.use(ALICE.email, 2.5, end=october)
    stage.use("bob@example.com", 9.5)
    browser = stage.browser()
    assert "alice@example.com 1.5 h 3.0 h 0 1 1 1 1 min 2.2 s" in await browser.text(
        "/history/usage"
    )
    assert "alice@example.com 2.5" in await browser.text("/history/usage?month=2026-10")
    assert "bob" not in await browser.html("/history/usage?of=everyone")
    assert "bob@example.com 9.5" in await stage.browser(ADMIN).text("/history/usage?of=everyone")
    assert (await browser.get("/history/usage?month=2026-13")).status_code == 422
    file = await browser.get("/api/v1/export?what=usage&month=2026-10")
    assert file.headers["content-disposition"] == 'attachment; filename="vdi-usage-2026-10.csv"'
    head, row, end = file.text.split("\r\n")
    assert (
        head.startswith("user,month,sessions")
        and row.startswith("alice@example.com,2026-10,1")
        and end == ""
    )


async def test_ones_own_limits_stand_beside_what_was_used() -> None:
    limits = read_limits("default: {gpus: 2, gpuHoursPerMonth: 100, homeStorage: 50Gi}", "limits")
    stage = PortalStage(limits=limits)
    stage.use(ALICE.email, 6.25, gpus=2)
    read = await stage.browser().text("/history/usage")
    assert (
        "My limits GPUs in use 0 of 2 GPU hours this month 12.5 of 100 All homes, in GiB 0 of 50"
        in read
    )
    assert "My limits" not in await stage.browser(ADMIN).html("/history/usage?of=everyone")
    assert "My limits" not in await PortalStage().browser().html("/history/usage")


async def test_a_row_sums_up_all_runs() -> None:
    one = past(2, queue_seconds=4.0, startup_seconds=2.0)
    again = RunRow(
        uid="uid-2", start=NOW - timedelta(minutes=90), startup_seconds=3.0, queue_seconds=70.0
    )
    assert run_time(SessionHistory(one.session, (*one.runs, again)), NOW) == timedelta(hours=2)
    stage = PortalStage()
    stage.remember(one.session, *one.runs, again)
    assert "2 h in 2 runs 1 min 3.0 s" in await stage.browser().text("/history")


def test_what_happened_is_reported_newest_first() -> None:
    ready = NOW - timedelta(hours=2, seconds=-2)
    one = past(2, queue_seconds=4.0, startup_seconds=2.0, ready=ready, end_detail="At noon.")
    assert [(each.what, each.more) for each in timeline_of(one)][-3:] == [
        ("Ready", "after 2.0 s"),
        ("Started", "after 4.0 s in line"),
        ("Requested", ""),
    ]


async def test_what_happened_has_restarts_and_seconds(stage: PortalStage) -> None:
    stage.put(a_template(), running())
    stage.remember(a_past("uid-alice-desktop", created=NOW - timedelta(hours=1)))
    for actor, uid, outcome in (
        (ALICE.email, "uid-alice-desktop", "done"),
        ("bob@example.com", "uid-of-an-earlier-one", "done"),
        ("eve@example.com", "uid-alice-desktop", "Conflict"),
    ):
        act = Act(actor=actor, action="session.restart", target="alice-desktop", uid=uid)
        await stage.services.audit.record(act, outcome)
    page = await stage.browser().text("/desktops/alice-desktop")
    assert (
        f"Restarted by {ALICE.email} 20 Nov 2026, 12:00:00 UTC Requested 20 Nov 2026, 11:00:00 UTC"
        in page
    )
    assert page.count("Restarted") == 1


async def test_what_happened_has_shares_but_not_for_guests(stage: PortalStage) -> None:
    stage.put(a_template(), running(access=[{"user": BOB.email}]))
    stage.remember(a_past("uid-alice-desktop", created=NOW - timedelta(hours=1)))
    for action, detail in (
        ("session.share", {"user": "eve@example.com", "role": "viewer", "length": "8h"}),
        ("session.resize", {"memory": "8Gi"}),
        ("computer.request_human", {"reason": "Sign in.", "token": "t"}),
        ("computer.type", {"characters": "7"}),
    ):
        act = Act(
            actor=ALICE.email, action=action, target="d", uid="uid-alice-desktop", detail=detail
        )
        await stage.services.audit.record(act)
    by = f"by {ALICE.email}"
    for browser, sees in ((stage.browser(), True), (stage.browser(BOB), False)):
        text = text_of((await browser.get("/desktops/alice-desktop/happened")).text)
        assert f"Resized 8Gi, {by}" in text and "7" not in text.replace("2026", "")
        assert f"An agent asked for a person Sign in., {by}" in text
        assert (f"Shared eve@example.com, view only, {by}" in text) is sees


def test_shares_are_of_the_largest_and_the_rest_is_one() -> None:
    found = shares([(f"user{number}", float(number)) for number in range(13)])
    assert [share.name for share in found][:2] == ["user12", "user11"]
    assert (found[0].percent, found[1].label, len(found)) == (100.0, "11.0 h", 11)
    assert (found[-1].name, found[-1].label, found[-1].percent) == ("2 others", "3.0 h", 0.0)
    assert shares([(f"user{number}", 1.0) for number in range(11)])[-1].name == "1 other"
    assert shares([("nothing", 0.0)]) == []


async def test_usage_is_compared_by_user_and_by_template() -> None:
    stage = PortalStage()
    for user, template, hours in (
        ("root", "blender", 3.0),
        ("root", "qgis", 1.0),
        ("b", "qgis", 1.0),
    ):
        stage.use(f"{user}@example.com", hours, template)
    page = await stage.browser(ADMIN).html("/history/usage?of=everyone")
    assert re.findall(r'<rect width="([\d.]+)"', page) == ["100.0", "25.0", "100.0", "66.7"]
    assert "Hours by user" in page
    mine = await stage.browser(ADMIN).html("/history/usage")
    assert "Hours by user" not in mine


async def test_each_kill_for_want_of_memory_is_in_the_timeline_once(stage: PortalStage) -> None:
    stage.remember(a_past("uid-alice-desktop", created=NOW - timedelta(hours=1)))
    for message in ("At 11:58 it was killed.", "At 11:59 it was killed."):
        killed = {
            "type": "OutOfMemory",
            "status": "True",
            "reason": "DesktopKilled",
            "message": message,
        }
        stage.put(a_template(), running(status={"conditions": [killed]}))
        for _replica in range(2):
            kills = MemoryKills(context=stage.services.context, audit=stage.services.audit)
            await kills.record()
            await kills.record()
    page = await stage.browser().text("/desktops/alice-desktop")
    assert "This desktop ran out of memory At 11:59 it was killed." in page
    assert sorted(re.findall("Out of memory At (11:5[89])", page)) == ["11:58", "11:59"]
