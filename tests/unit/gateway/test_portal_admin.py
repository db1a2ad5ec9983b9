"""Pages for administrators: who may see them, filters and pages over many sessions, and what cannot
be known.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from unit.gateway.gateway_stage import NOW
from unit.gateway.portal_stage import (
    ADMIN,
    ALICE,
    PortalStage,
    a_session,
    a_template,
    running,
    text_of,
)
from vdi.api.pool import VDIPool
from vdi.doctor.collect import BUDGET
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gateway.doctor import Report
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.portal.admin import PAGE_SIZE, Filter, read_filter, sessions_page
from vdi.gateway.portal.pages import paged
from vdi.gateway.store.audit import Act
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import ConnectionFailed, Forbidden, KubeError

PATHS = ("", "/sessions", "/templates", "/pools", "/people", "/doctor", "/audit")


@pytest.mark.parametrize("path", PATHS)
async def test_administration_is_for_administrators(path: str) -> None:
    stage = PortalStage()
    assert (await stage.browser(ALICE).get(f"/admin{path}")).status_code == 403
    assert (await stage.browser(None).get(f"/admin{path}")).status_code == 303
    assert (await stage.browser(ADMIN).get(f"/admin{path}")).status_code == 200


def crowd(number: int) -> PortalStage:
    stage = PortalStage(a_template())
    for index in range(number):
        status = {
            "phase": ("Running", "Pending", "Suspended")[index % 3],
            "nodeName": f"node-{index % 4}",
        }
        created = f"2026-11-{1 + index % 19:02}T09:00:00Z"
        stage.put(
            a_session(
                f"desk-{index:04}",
                user=f"user{index % 10}@example.com",
                created=created,
                status=status,
            )
        )
    return stage


async def test_a_thousand_sessions_come_a_page_at_a_time() -> None:
    stage = crowd(1000)
    seen: list[str] = []
    for number in range(1, 21):
        rows = sessions_page(stage.services, ADMIN, Filter(), number)
        assert (rows.total, rows.last) == (1000, 20)
        seen += [each.name for each in rows.items]
    assert sorted(seen) == [f"desk-{index:04}" for index in range(1000)]
    page = await stage.browser(ADMIN).text("/admin/sessions?page=20")
    assert "1,000 sessions" in page and "951 to 1000 of 1,000" in page


@pytest.mark.parametrize("number", ["0", "-1", "21", "99999999", "x", "9" * 40, "٣"])
async def test_a_page_that_is_not_there_shows_one_that_is(number: str) -> None:
    answer = await crowd(60).browser(ADMIN).client.get("/admin/sessions", params={"page": number})
    assert answer.status_code == 200
    assert answer.text.count("<tr sse-swap=") in (PAGE_SIZE, 10)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"q": "DESK-0001"}, 1),
        ({"q": "user3@"}, 10),
        ({"q": "node-2 user3@"}, 0),
        ({"q": "node-1 user3@"}, 5),
        ({"phase": "Suspended"}, 33),
        ({"phase": "Nonsense"}, 100),
        ({"template": "ubuntu"}, 100),
        ({"template": "other"}, 0),
        ({"phase": "Running", "q": "user0@"}, 4),
    ],
)
def test_filters_narrow_down(query: dict[str, str], expected: int) -> None:
    assert sessions_page(crowd(100).services, ADMIN, read_filter(query), 1).total == expected


async def test_list_of_gpus_names_their_users_and_the_idle_ones() -> None:
    stage = PortalStage(
        a_template(lifecycle={"idleTimeout": "8h"}), a_template("cpu", resources={"defaultGPU": 0})
    )
    stage.put(
        running("idle", status={"lastActivityTime": "2026-11-20T10:00:00Z"}),
        running("cpu-1", template="cpu"),
    )
    stage.put(
        running("busy", status={"lastActivityTime": "2026-11-20T11:50:00Z"}), a_session("waits")
    )
    for query, names in (
        ({"gpu": "yes"}, ["busy", "idle"]),
        ({"gpu": "yes", "idle": "1h"}, ["idle"]),
    ):
        rows = sessions_page(stage.services, ADMIN, read_filter(query), 1)
        assert sorted(row.name for row in rows.items) == names
    browser = stage.browser(ADMIN)
    assert 'href="/admin/sessions?gpu=yes"' in await browser.html("/admin")
    page = await browser.text("/admin/sessions?gpu=yes&idle=1h")
    assert "idle alice@example.com ubuntu" in page and "gpu-node-1" in page


async def test_chosen_sessions_get_a_message() -> None:
    stage = PortalStage(a_template(), running("one"), running("two"))
    browser, path = stage.browser(ADMIN), "/admin/sessions"
    form = {"action": "message", "notice": "15m", "pick-uid-two": "on"}
    for message in ("", "x" * 201, "a\x00"):
        refused = await browser.post(path, at=path, **form, message=message, confirmed="yes")
        assert refused.status_code in (409, 422), message
    form["message"] = "Licences are short today."
    question = text_of((await browser.post(path, at=path, **form)).text)
    assert "Show the message in 1 desktop?" in question and form["message"] in question
    done = await browser.post(path, at=path, **form, confirmed="yes")
    assert "done=message&name=1+session" in done.headers["location"]
    shown = [
        await stage.services.context.shared.get(f"message/uid-{name}") for name in ("one", "two")
    ]
    assert shown == [None, form["message"]]
    assert "plannedEnd" not in stage.cluster.objects["two"]["spec"]
    entry = (await stage.services.audit.entries(limit=1))[0]
    assert (entry.action, entry.target) == ("session.message", "two")
    assert entry.detail == {"message": form["message"]}


async def test_chosen_sessions_get_a_planned_end() -> None:
    names = ("one", "two", "three")
    stage = PortalStage(a_template(), *map(running, names), running("gone", deleting=True))
    browser, path = stage.browser(ADMIN), "/admin/sessions"
    form = {"action": "Suspend", "notice": "15m", "message": "Maintenance", "pick-uid-two": "on"}

    def plans() -> list[Any]:
        return [stage.cluster.objects[name]["spec"].get("plannedEnd") for name in names]

    question = await browser.post(path, at=path, **form)
    text = text_of(question.text)
    assert "Suspend 1 desktop?" in text and "Suspend 1 desktop at" in text and "two" in text
    assert plans() == [None, None, None]
    time = re.search(r'name="time" value="([^"]+)"', question.text)
    assert time is not None
    form |= {"confirmed": "yes", "time": time[1]}
    stage.clock.forward(minutes=1)
    planned = await browser.post(path, at=path, **form)
    assert "done=plan-end&name=1+session" in planned.headers["location"]
    end = {"time": "2026-11-20T12:15:00Z", "action": "Suspend", "message": "Maintenance"}
    assert plans() == [None, end, None]
    entry = (await stage.services.audit.entries(limit=1))[0]
    assert (entry.action, entry.target, entry.detail) == ("session.plan-end", "two", end)
    refused = await browser.post(
        path, at=path, **form, **{"pick-uid-gone": "on", "pick-uid-three": "on"}
    )
    assert (
        "Done for 2 of 3 chosen sessions. gone: The desktop &#39;gone&#39; is ending"
        in refused.text
    )
    assert plans() == [None, end, end]
    taken_back = await browser.post(path, at=path, **(form | {"action": "cancel", "confirmed": ""}))
    assert "Take the announcement back in 1 desktop?" in text_of(taken_back.text)
    await browser.post(path, at=path, **(form | {"action": "cancel"}))
    assert plans() == [None, None, end]
    for wrong in ({"action": "Stop"}, {"notice": "1s"}):
        assert (await browser.post(path, at=path, **(form | wrong))).status_code == 422
    unknown = await browser.post(path, at=path, **(form | {"time": "soon"}))
    assert unknown.status_code == 409 and "Done for 0 of 1 chosen sessions." in unknown.text
    assert (await stage.browser(ALICE).post(path, at="/", **form)).status_code == 403
    assert plans() == [None, None, end]


async def test_outdated_sessions_are_found_and_restarted() -> None:
    newer = {"type": "TemplateFound", "status": "True", "reason": "NewerRevision", "message": "m"}
    old = [running(name, status={"conditions": [newer]}) for name in ("old", "older")]
    stage = PortalStage(a_template(), running("new"), *old)
    browser, path = stage.browser(ADMIN), "/admin/sessions/restart"
    page = await browser.html("/admin/sessions?phase=Outdated")
    assert text_of(page).count("Running yes 1 gpu-node-1") == 2 and ">new<" not in page
    assert f'formaction="{path}"' in page

    def restarted() -> set[str]:
        return {target for _, action, target, _ in stage.acts if action == "session.restart"}

    form = {"pick-uid-old": "on", "pick-uid-new": "on"}
    question = await browser.post(path, at="/admin/sessions", **form)
    assert "Restart 2 sessions now?" in question.text and "<li>old</li>" in question.text
    assert restarted() == set()
    answer = await browser.post(path, at="/admin/sessions", confirmed="yes", **form)
    assert answer.headers["location"].endswith("&done=restart&name=2+sessions")
    assert restarted() == {"old", "new"}
    stage.put(running("gone", deleting=True))
    refused = await browser.post(
        path, at="/admin/sessions", confirmed="yes", **{"pick-uid-gone": "on"}
    )
    assert (refused.status_code, "gone: " in refused.text) == (409, True)
    assert (await browser.post(path, at="/admin/sessions")).status_code == 409
    assert (await stage.browser(ALICE).post(path, at="/", **form)).status_code == 403


async def test_transfers_are_listed_apart_from_actions() -> None:
    stage = PortalStage()
    event = {"action": "files.download", "target": "alice-desktop", "owner": ALICE.email}
    detail = {"path": "<i>plan", "bytes": "2048", "type": "text/plain", "users": "a@x.y, b@x.y"}
    await stage.services.audit.record(Act(actor="", detail=detail, **event))
    await stage.services.audit.record(
        Act(actor=ADMIN.email, action="transfers.begin", target="other", owner="o@x.y")
    )
    admin = stage.browser(ADMIN)
    page = await admin.html("/admin/transfers?owner=Alice@example.com")
    assert "&lt;i&gt;plan" in page and "Desktop begins to report</td>" not in page
    row = "one of a@x.y, b@x.y File out alice-desktop of alice@example.com done"
    assert f"{row} bytes: 2.0 kB, path: &lt;i&gt;plan, type: text/plain" in text_of(page)
    assert 'href="/api/v1/admin/export?what=transfers&amp;user=Alice%40example.com"' in page
    sums = "Out of desktops in the last 7 days Person Size one of several 2.0 kB"
    assert sums in text_of(page)
    day = "2026-11-20T00%3A00%3A00Z&amp;until=2026-11-21T00%3A00%3A00Z"
    page = await admin.html("/admin/transfers?since=2026-11-20&until=2026-11-21&order=size")
    assert f"what=transfers&amp;since={day}" in page
    assert "Out of desktops Person" in text_of(page)
    assert "File out" in text_of(page).partition("Details")[2]
    page = await admin.text("/admin/transfers?since=2026-11-21")
    assert "No entry matches" in page and "Out of desktops" not in page
    for wrong in ("since=yesterday", "until=2026-11-31"):
        assert (await admin.get(f"/admin/transfers?{wrong}")).status_code == 422
    assert "plan" not in await admin.html("/admin/audit")
    assert (await stage.browser(ALICE).get("/admin/transfers")).status_code == 403


async def test_banner_is_shown_to_all_escaped_and_audited() -> None:
    stage = PortalStage()
    admin, alice = stage.browser(ADMIN), stage.browser(ALICE)
    text = "<b>Maintenance</b> at 18:00"
    assert (await admin.post("/admin/banner", at="/admin", text=text)).status_code == 303
    assert "&lt;b&gt;Maintenance&lt;/b&gt; at 18:00" in await alice.html("/")
    assert (await stage.services.audit.entries(limit=1))[0].detail == {"text": text}
    for wrong in ("x" * 201, "a\u202eb"):
        assert (await admin.post("/admin/banner", at="/admin", text=wrong)).status_code == 422
    assert (await alice.post("/admin/banner", at="/", text="mine")).status_code == 403
    await admin.post("/admin/banner", at="/admin", text="")
    assert "Maintenance" not in await alice.html("/")


async def test_a_desktop_that_hangs_counts_as_failed() -> None:
    hangs = {
        "type": "PodReady",
        "status": "False",
        "reason": "NotResponding",
        "message": "It hangs.",
    }
    status = {"phase": "Creating", "podName": "p", "message": "It hangs.", "conditions": [hangs]}
    admin = PortalStage(a_template(), a_session(status=status)).browser(ADMIN)
    overview = await admin.text("/admin")
    assert "0 starting" in overview and "1 failed" in overview
    assert "Not responding It hangs." in await admin.text("/admin/sessions?phase=Failed")


def test_the_queue_is_in_its_own_order() -> None:
    stage = PortalStage(running("runs"))
    for name, place in (("third", 3), ("first", 1), ("no-room", 0), ("second", 2)):
        queue = {"position": place, "reason": "GPUsBusy"}
        stage.put(a_session(name, status={"phase": "Pending", "queue": queue}))
    rows = sessions_page(stage.services, ADMIN, Filter(phase="Pending"), 1)
    assert [each.name for each in rows.items] == ["first", "second", "third", "no-room"]


def test_pages_of_nothing_is_one_empty_page() -> None:
    empty = paged(list[str](), 7, 10)
    assert (empty.number, empty.last, empty.first_shown, empty.last_shown) == (1, 1, 0, 0)


async def test_gpu_slots_are_counted_by_node_or_unknown() -> None:
    stage = PortalStage(a_template(), running("a"), running("b", resources={"gpu": 2}))
    stage.cluster.nodes = [
        {
            "metadata": {"name": "gpu-node-1"},
            "spec": {},
            "status": {"allocatable": {"nvidia.com/gpu": "8"}},
        },
        {"metadata": {"name": "cpu-node"}, "spec": {}, "status": {"allocatable": {"cpu": "8"}}},
    ]
    page = await stage.browser(ADMIN).text("/admin")
    assert "gpu-node-1 3 of 8 2" in page and "3 of 8 GPUs in use" in page
    assert "cpu-node" not in page and "kubectl drain NODE" in page
    stage.put(
        running("c", resources={"gpu": 0}, status={"nodeName": "cpu-node"}), a_session("waits")
    )
    page = await stage.browser(ADMIN).html("/admin")
    assert 'href="/admin/sessions?q=cpu-node">1</a>' in page
    assert 'href="/admin/sessions?phase=Running">running</a>' in page
    stage.cluster.refuses = Forbidden(403, "Forbidden", "cannot list nodes")
    page = await stage.browser(ADMIN).text("/admin")
    assert "Unknown The gateway may not read nodes" in page and "3 GPUs in use" in page


async def test_templates_show_their_size_and_who_may_use_them() -> None:
    stage = PortalStage(
        a_template(
            "a",
            access={"users": ["x@y.z"], "groups": ["lab"]},
            resources={
                "maxGPU": 4,
                "defaultEphemeralStorage": "5Gi",
                "maxEphemeralStorage": "20Gi",
            },
            persistence={"maxSize": "50Gi"},
        ),
        a_template("b", persistence={"enabled": False}),
    )
    page = await stage.browser(ADMIN).text("/admin/templates")
    size = (
        "1, at most 4 GPU 2 CPUs 4 GiB memory 5 GiB, at most 20 GiB local disk 10 GiB, at most 50"
        " GiB home"
    )
    assert f"A a {size} any x@y.z, group lab" in page
    assert "B b 1 GPU 2 CPUs 4 GiB memory No home any everyone" in page


async def test_pools_show_what_is_ready() -> None:
    status = {"ready": 1, "starting": 2, "claimed": 3, "message": "No room."}
    pool = {"metadata": {"name": "p"}, "spec": {"template": "t", "replicas": 4}, "status": status}
    page = await PortalStage(msgspec.convert(pool, VDIPool)).browser(ADMIN).text("/admin/pools")
    assert "p t 1 of 4" in page and "No room." in page


async def test_limits_stand_beside_what_is_used() -> None:
    limits = Limits(default=Limit(sessions=3), users={"alice@example.com": Limit(gpus=8)})
    sessions = running("a", resources={"gpu": 2}), running("b"), running("c", suspended=True)
    stage = PortalStage(a_template(), *sessions, limits=limits)
    stage.use("bob@example.com", 7.5)
    page = await stage.browser(ADMIN).text("/admin/people")
    assert "alice@example.com 0 2 of 3 3 of 8 0 0" in page
    assert "bob@example.com 0 0 of 3 0 7.5 h" in page


async def test_hours_that_no_one_knows_are_not_called_zero() -> None:
    stage = PortalStage(running(), limits=Limits(default=Limit(hours=100.0)))
    stage.use("alice@example.com", 12.34)
    assert "12.3 h of 100" in await stage.browser(ADMIN).text("/admin/people")
    stage.lose_history()
    page = await stage.browser(ADMIN).text("/admin/people")
    assert "Hours are unknown" in page and "? of 100" in page


def finding(code: str, by: str = "", severity: Severity = Severity.ERROR) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        object=f"pod/{code}",
        message=code,
        remedy=Remedy("r"),
        caused_by=by,
    )


def test_what_follows_stands_under_its_first_cause() -> None:
    findings = [finding("a"), finding("b", "a pod/a"), finding("c", "b pod/b"), finding("d")]
    groups = [[one.code for one in group] for group in Report(NOW, "", findings).groups]
    assert groups == [["a", "b", "c"], ["d"]]


async def test_unknown_is_shown_as_unknown_never_as_a_pass() -> None:
    stage, unknown = PortalStage(), finding("not_readable", severity=Severity.UNKNOWN)
    browser = stage.browser(ADMIN)
    stage.services.doctor.last = Report(NOW, "Looked at 1 session.", [unknown], unknown=1)
    page = await browser.html("/admin/doctor")
    assert "UNKNOWN" in page and "1 result unknown" in page and "No findings" not in page
    stage.services.doctor.last = Report(NOW, "No problems found.")
    assert "No findings" in await browser.html("/admin/doctor")
    stage.services.doctor.last = Report(NOW, "", failed="No answer.")
    page = await browser.html("/admin/doctor")
    assert "Nothing could be checked" in page and "No findings" not in page


class Blind:
    """A cluster that lets the gateway read nothing, or does not answer."""

    config = ClusterConfig(server="http://127.0.0.1:9")

    def __init__(self, error: KubeError) -> None:
        self.error = error
        self.asked = 0

    async def get(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        raise self.error

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield await self.get()


async def test_the_doctor_reports_unreadable_objects_as_unknown() -> None:
    stage = PortalStage(
        cluster=Blind(Forbidden(403, "Forbidden", 'User "vdi-gateway" cannot list'))
    )
    browser = stage.browser(ADMIN)
    answer = await browser.post("/admin/doctor", at="/admin/doctor")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/doctor")
    page = await browser.text("/admin/doctor")
    assert "results unknown" in page and "vdi-gateway may not list pods" in page
    assert "No findings" not in page


async def test_a_cluster_that_does_not_answer_is_no_clean_bill() -> None:
    stage = PortalStage(
        cluster=Blind(ConnectionFailed("https://10.0.0.1", "list pods", "no route to host"))
    )
    report = await stage.services.doctor.run()
    assert "no route to host" in report.failed
    assert not report.well


async def test_administrators_who_ask_at_once_share_one_look() -> None:
    blind = Blind(Forbidden(403, "Forbidden", "no"))
    stage = PortalStage(cluster=blind)
    one, other = await asyncio.gather(*(stage.services.doctor.run() for _ in range(2)))
    assert one is other
    assert blind.asked <= BUDGET
    assert await stage.services.doctor.run() is not one


async def test_the_audit_is_filtered_and_read_on() -> None:
    stage = PortalStage()
    for number in range(1, 251):
        stage.enter_act(
            actor=f"user{number % 2}@example.com", action="share", target=f"desk-{number}"
        )
    browser = stage.browser(ADMIN)
    page = await browser.html("/admin/audit?actor=USER1@example.com")
    assert page.count("user1@example.com") == 100
    assert "user0@" not in page and "before=51" in page
    older = await browser.html("/admin/audit?actor=user1@example.com&before=51")
    assert older.count("user1@example.com") >= 25
    assert "Older" not in older
    page = await browser.text("/admin/audit?action=har&target=desk-25&since=2026-11-20")
    assert "desk-25 " in page and "desk-250 " in page and "desk-24" not in page
    page = await browser.html("/admin/audit?actor=user1@example.com&until=2026-11-19")
    csv = "what=audit&amp;user=user1%40example.com&amp;until=2026-11-19T00%3A00%3A00Z"
    assert f'href="/api/v1/admin/export?{csv}"' in page and "No entry matches" in page
    assert (await browser.get("/admin/audit?before=x")).status_code == 422
    stage.lose_audit()
    down = await browser.get("/admin/audit")
    assert (down.status_code, "The audit cannot be read" in down.text) == (200, True)
