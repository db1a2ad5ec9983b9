"""Actions on sessions at a fake cluster: what the commands send, print and return."""

from typing import Any

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template, running

ALICE = f"{SESSIONS}/alice-desktop"

pytestmark = pytest.mark.usefixtures("five_past_eight")


def test_suspend_shows_how_to_resume(vdi: Vdi, alice: FakeCluster) -> None:
    ran = vdi("session", "suspend", "alice-desktop")
    assert (ran.code, ran.err) == (0, "")
    assert (
        ran.out == "session alice-desktop is being suspended; start it again: vdi session resume"
        " alice-desktop\n"
    )
    uid = alice.objects[ALICE]["metadata"]["uid"]
    assert alice.bodies == [{"spec": {"suspended": True}, "metadata": {"uid": uid}}]


def test_suspend_waits_for_the_status_of_this_suspension(vdi: Vdi, fake: FakeCluster) -> None:
    before = a_session(status={"phase": "Suspended", "observedGeneration": 4})
    before["metadata"]["generation"] = 4
    fake.put(SESSIONS, before)
    fake.after_write(
        {"phase": "Terminating", "observedGeneration": 5},
        {"phase": "Suspended", "observedGeneration": 5},
    )
    ran = vdi("session", "suspend", "alice-desktop", "--wait", "-n", "vdi-sessions")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("session alice-desktop was suspended in ")
    assert fake.objects[ALICE]["status"]["observedGeneration"] == 5


def test_suspend_that_takes_too_long_fails(
    vdi: Vdi, alice: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.cli.session.commands._SUSPENDED_SECONDS", 0.2)
    ran = vdi("session", "suspend", "alice-desktop", "--wait")
    assert ran.code == 1
    assert (
        "session alice-desktop is not suspended after 0s: see vdi session show alice-desktop"
        in ran.err
    )


def test_suspend_and_resume_change_nothing_twice(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session("s", suspended=True))
    fake.put(SESSIONS, a_session("r"))
    assert vdi("session", "suspend", "s").out.startswith(
        "session s is already suspended; start it again: "
    )
    assert (
        vdi("session", "resume", "r").out == "session r is not suspended; see vdi session show r\n"
    )
    assert fake.bodies == []


def test_a_failed_resume_shows_the_reason(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status={"phase": "Suspended"}, suspended=True))
    fake.after_write({"phase": "Failed", "message": "The home is gone.", "observedGeneration": 1})
    ran = vdi("session", "resume", "alice-desktop", "--wait")
    assert ran.code == 1
    assert "session alice-desktop does not start: The home is gone." in ran.err


@pytest.mark.parametrize(
    ("words", "status", "timeout", "said"),
    [
        (
            ["2h"],
            running(),
            "10h",
            "session alice-desktop ends at 2026-11-20T18:00:01Z (in 9h55m)\n",
        ),
        (
            ["--timeout", "90m"],
            running(),
            "90m",
            "session alice-desktop ends at 2026-11-20T09:30:01Z (in 1h25m)\n",
        ),
        (
            ["1h"],
            {"phase": "Suspended"},
            "9h",
            "session alice-desktop may last 9h in its next run\n",
        ),
    ],
)
def test_extend_shows_the_new_end(
    vdi: Vdi, fake: FakeCluster, words: list[str], status: dict[str, Any], timeout: str, said: str
) -> None:
    fake.put(SESSIONS, a_session(status=status))
    ran = vdi("session", "extend", "alice-desktop", *words)
    assert (ran.code, ran.out, ran.err) == (0, said, "")
    assert fake.objects[ALICE]["spec"]["timeout"] == timeout


def test_schedule_is_set_shown_and_removed(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(
        SESSIONS,
        a_session(
            status={"phase": "Suspended", "nextStart": "2026-11-23T07:30:00Z"}, suspended=True
        ),
    )
    zone = ("--time-zone", "Europe/Berlin")
    ran = vdi(
        "session",
        "schedule",
        "alice-desktop",
        "--at",
        "8:30",
        "--until",
        "18:00",
        "--days",
        "MON-WED,SUN",
        *zone,
    )
    assert (
        ran.out
        == "session alice-desktop has a schedule: 08:30 to 18:00, Monday, Tuesday, Wednesday, Sunday,"
        " Europe/Berlin\n"
    )
    assert fake.objects[ALICE]["spec"]["schedule"] == {
        "start": "08:30",
        "end": "18:00",
        "days": ["MON", "TUE", "WED", "SUN"],
        "timeZone": "Europe/Berlin",
    }
    assert (
        "Sunday, Europe/Berlin; next 2026-11-23T07:30:00Z"
        in vdi("session", "show", "alice-desktop").out
    )
    ran = vdi("session", "schedule", "alice-desktop", "--off")
    assert ran.out == "session alice-desktop has no schedule\n"
    assert fake.objects[ALICE]["spec"].get("schedule") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "use one of --at 08:30 and --off"),
        (["--at", "8:30", "--off"], "use one of --at 08:30 and --off"),
        (["--at", "25:00"], "--at: '25:00' is not a time of day; allowed: 00:00 to 23:59"),
        (["--at", "8:30", "--until", "6pm"], "--until: '6pm' is not a time of day"),
        (["--at", "8:30", "--days", "MON-XYZ"], "--days: 'MON-XYZ' is not a day of the week"),
    ],
)
def test_unusable_schedule_is_refused_by_its_option(
    vdi: Vdi, fake: FakeCluster, words: list[str], said: str
) -> None:
    fake.put(SESSIONS, a_session())
    ran = vdi("session", "schedule", "alice-desktop", "--time-zone", "Etc/UTC", *words)
    assert ran.code == 2
    assert said in ran.err


REFUSED = [
    (["extend"], 2, "name the additional time"),
    (["extend", "1h", "--timeout", "2h"], 2, "name the additional time"),
    (["extend", "two"], 2, "additional time: 'two' is not a duration"),
    (["extend", "1h"], 1, "timeout: 5h is more than 4h, the maximum for template 'ubuntu-desktop'"),
    (["resize"], 2, "name the new size: --memory 6Gi, --cpu 2, or both"),
    (["resize", "--memory", "much"], 2, "spec.resources.memory: 'much' is not a quantity"),
    (["resize", "--memory", "500Gi"], 1, "spec.resources.memory: 500Gi is more than the"),
    (
        ["share", "bob@example.com", "--expires-in", "soon"],
        2,
        "--expires-in: 'soon' is not a duration",
    ),
    (["share", "bob@example.com", "--role", "owner"], 2, "owner"),
    (
        ["unshare", "bob@example.com"],
        1,
        "This desktop is not shared with bob@example.com. It is shared with no one.",
    ),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSED, ids=lambda each: str(each)[:40])
def test_refused_actions_change_nothing(
    vdi: Vdi, alice: FakeCluster, words: list[str], code: int, said: str
) -> None:
    alice.put(TEMPLATES, a_template(lifecycle={"maxTimeout": "4h"}))
    ran = vdi("session", words[0], "alice-desktop", *words[1:])
    assert ran.code == code
    assert said in ran.err
    assert alice.bodies == []


@pytest.mark.parametrize("words", [["suspend"], ["restart"], ["extend", "1h"]])
def test_a_missing_session_is_reported(vdi: Vdi, words: list[str]) -> None:
    ran = vdi("session", words[0], "nobody", *words[1:])
    assert (ran.code, ran.err) == (
        1,
        "Error: there is no session nobody in namespace vdi-sessions\n",
    )


def test_share_and_unshare_edit_the_guests(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running(), access=[{"user": "eve@example.com"}]))
    words = ["--role", "collaborator", "--expires-in", "2h"]
    ran = vdi("session", "share", "alice-desktop", "Bob@example.com", *words)
    assert (
        ran.out == "session alice-desktop is shared with bob@example.com as collaborator until"
        " 2026-11-20T10:05:00Z; send them its address: https://alice-desktop.vdi.localhost:1\n"
    )
    bob = {"user": "bob@example.com", "role": "collaborator", "expires": "2026-11-20T10:05:00Z"}
    assert fake.objects[ALICE]["spec"]["access"] == [{"user": "eve@example.com"}, bob]
    assert set(fake.bodies[0]["metadata"]) == {
        "uid",
        "resourceVersion",
    }, "nobody else's guest is lost"
    ran = vdi("session", "unshare", "alice-desktop", "Bob@example.com")
    assert ran.out.splitlines() == [
        "session alice-desktop is no longer shared with Bob@example.com",
        (
            "Programs that Bob@example.com started in the desktop are still running. To end them:"
            " vdi session restart alice-desktop"
        ),
    ]
    assert fake.objects[ALICE]["spec"]["access"] == [{"user": "eve@example.com"}]


def test_an_unreadable_template_allows_no_viewer_but_more_time(
    vdi: Vdi, alice: FakeCluster
) -> None:
    path = f"{TEMPLATES}/ubuntu-desktop"
    alice.refuse("GET", path, 403, reason="Forbidden", message="vditemplates is forbidden")
    assert vdi("session", "share", "alice-desktop", "bob@example.com").code == 3
    assert alice.bodies == []
    assert vdi("session", "extend", "alice-desktop", "1h").code == 0


def test_guests_are_edited_again_after_a_conflict(vdi: Vdi, alice: FakeCluster) -> None:
    alice.put(TEMPLATES, a_template())
    alice.refuse("PATCH", ALICE, 409, reason="Conflict", message="the object has been modified")
    ran = vdi("session", "share", "alice-desktop", "bob@example.com")
    assert (ran.code, ran.err) == (
        1,
        "Error: session alice-desktop keeps being changed by others; try again\n",
    )
    assert [request for request in alice.requests if request[0] == "PATCH"] == [
        ("PATCH", ALICE)
    ] * 5
