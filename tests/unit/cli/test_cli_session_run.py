"""suspend, resume, restart and extend against a fake cluster: what they send, print and return."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template, running

NOW = datetime(2026, 11, 20, 8, 5, 0, tzinfo=UTC)
ALICE = f"{SESSIONS}/alice-desktop"


@pytest.fixture(autouse=True)
def five_past_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    __import__("vdi.cli.session.commands")
    monkeypatch.setattr("vdi.cli.session.commands.now_utc", lambda: NOW)


def test_suspend_says_how_to_go_on(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    ran = vdi("session", "suspend", "alice-desktop")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == ("session alice-desktop is being suspended; start it again: vdi session resume alice-desktop\n")
    uid = fake.objects[ALICE]["metadata"]["uid"]
    assert fake.bodies == [{"spec": {"suspended": True}, "metadata": {"uid": uid}}]


def test_suspend_waits_for_the_operator_s_word_about_this_suspension(vdi: Vdi, fake: FakeCluster) -> None:
    before = a_session(status={"phase": "Suspended", "observedGeneration": 4})
    before["metadata"]["generation"] = 4
    fake.put(SESSIONS, before)
    fake.after_write({"phase": "Terminating", "observedGeneration": 5}, {"phase": "Suspended", "observedGeneration": 5})
    ran = vdi("session", "suspend", "alice-desktop", "--wait", "-n", "vdi-sessions")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("session alice-desktop is suspended after ")
    assert fake.objects[ALICE]["status"]["observedGeneration"] == 5


def test_suspend_that_is_not_done_fails(vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdi.cli.session.commands._SUSPENDED_SECONDS", 0.2)
    fake.put(SESSIONS, a_session(status=running()))
    ran = vdi("session", "suspend", "alice-desktop", "--wait")
    assert ran.code == 1
    assert "session alice-desktop is not suspended after 0s: see vdi session show alice-desktop" in ran.err


def test_what_is_so_already_changes_nothing(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session("s", suspended=True))
    fake.put(SESSIONS, a_session("r"))
    assert vdi("session", "suspend", "s").out.startswith("session s is already suspended; start it again: ")
    assert vdi("session", "resume", "r").out == "session r is not suspended; see vdi session show r\n"
    assert fake.bodies == []


def test_resume_shows_the_start(vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdi.cli.url_check._UNREACHABLE_AFTER_SECONDS", 0.0)
    suspended = a_session(status={"phase": "Suspended", "observedGeneration": 1}, suspended=True)
    suspended["metadata"]["generation"] = 1
    fake.put(SESSIONS, suspended)
    fake.after_write(running(observedGeneration=2))
    ran = vdi("session", "resume", "alice-desktop", "--wait", "-o", "json")
    assert ran.code == 0, ran.err
    assert "✓ session Running" in ran.err
    assert json.loads(ran.out)["spec"]["suspended"] is False


def test_a_resumption_that_does_not_start_says_why(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status={"phase": "Suspended"}, suspended=True))
    fake.after_write({"phase": "Failed", "message": "The home is gone.", "observedGeneration": 1})
    ran = vdi("session", "resume", "alice-desktop", "--wait")
    assert ran.code == 1
    assert "session alice-desktop does not start: The home is gone." in ran.err


def test_restart_writes_when_it_was_asked_for(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    ran = vdi("session", "restart", "alice-desktop")
    assert (ran.code, ran.out) == (
        0,
        "session alice-desktop is being restarted; see vdi session show alice-desktop\n",
    )
    assert fake.objects[ALICE]["metadata"]["annotations"] == {"vdi.kasm.io/restartedAt": "2026-11-20T08:05:00Z"}


def test_a_suspended_session_has_nothing_to_restart(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(suspended=True))
    ran = vdi("session", "restart", "alice-desktop")
    assert ran.code == 1
    assert "session alice-desktop is suspended, so there is no desktop to restart: resume it" in ran.err


EXTENSIONS = [
    (["--by", "2h"], {}, "10h", "session alice-desktop ends at 2026-11-20T18:00:01Z (in 9h55m)\n"),
    (["--timeout", "90m"], {}, "1h30m", "session alice-desktop ends at 2026-11-20T09:30:01Z (in 1h25m)\n"),
    (
        ["--by", "2h"],
        {"maxTimeout": "9h"},
        "10h",
        "session alice-desktop ends at 2026-11-20T17:00:01Z (in 8h55m); its template allows runs of 9h at most\n",
    ),
    (
        ["--timeout", "12h"],
        {"maxTimeout": "8h"},
        "12h",
        "session alice-desktop ends at 2026-11-20T16:00:01Z (in 7h55m); its template allows runs of 8h at most\n",
    ),
]


@pytest.mark.parametrize(("words", "lifecycle", "timeout", "said"), EXTENSIONS)
def test_extend_tells_the_new_end(
    vdi: Vdi, fake: FakeCluster, words: list[str], lifecycle: dict[str, Any], timeout: str, said: str
) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    fake.put(TEMPLATES, a_template(lifecycle=lifecycle))
    ran = vdi("session", "extend", "alice-desktop", *words)
    assert (ran.code, ran.out, ran.err) == (0, said, "")
    assert fake.objects[ALICE]["spec"]["timeout"] == timeout


def test_schedule_is_set_shown_and_removed(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status={"phase": "Suspended", "nextStart": "2026-11-23T07:30:00Z"}, suspended=True))
    zone = ("--time-zone", "Europe/Berlin")
    ran = vdi(
        "session", "schedule", "alice-desktop", "--at", "8:30", "--until", "18:00", "--days", "MON-WED,SUN", *zone
    )
    assert ran.out == (
        "schedule of session alice-desktop: 08:30 to 18:00, Monday, Tuesday, Wednesday, Sunday, Europe/Berlin\n"
    )
    assert fake.objects[ALICE]["spec"]["schedule"] == {
        "start": "08:30",
        "end": "18:00",
        "days": ["MON", "TUE", "WED", "SUN"],
        "timeZone": "Europe/Berlin",
    }
    assert "Sunday, Europe/Berlin; next 2026-11-23T07:30:00Z" in vdi("session", "show", "alice-desktop").out
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
def test_wrong_schedule_is_refused_with_its_option(vdi: Vdi, fake: FakeCluster, words: list[str], said: str) -> None:
    fake.put(SESSIONS, a_session())
    ran = vdi("session", "schedule", "alice-desktop", "--time-zone", "Etc/UTC", *words)
    assert ran.code == 2
    assert said in ran.err


def test_extend_of_what_does_not_run_is_for_the_next_run(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status={"phase": "Suspended"}, suspended=True))
    ran = vdi("session", "extend", "alice-desktop", "--by", "1h")
    assert ran.out == "the next run of session alice-desktop may last 9h\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "use one of --by 2h"),
        (["--by", "1h", "--timeout", "2h"], 2, "use one of --by 2h"),
        (["--by", "two"], 2, "--by: 'two' is not a duration"),
        (["--timeout", "0h"], 2, "--timeout: '0h' is not a duration"),
        (["--timeout", "4m"], 2, "has run for 4m59s, so a run of 4m would end immediately"),
        (["--by", "1h"], 1, "a run of template ubuntu-desktop may last at most 4h (spec.lifecycle.maxTimeout)"),
    ],
)
def test_an_extension_that_makes_no_sense_changes_nothing(
    vdi: Vdi, fake: FakeCluster, words: list[str], code: int, said: str
) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    fake.put(TEMPLATES, a_template(lifecycle={"maxTimeout": "4h"}))
    ran = vdi("session", "extend", "alice-desktop", *words)
    assert ran.code == code
    assert said in ran.err
    assert fake.bodies == []


@pytest.mark.parametrize("words", [["suspend"], ["resume"], ["restart"], ["extend", "--by", "1h"]])
def test_a_session_that_is_not_there_is_said(vdi: Vdi, words: list[str]) -> None:
    ran = vdi("session", *words, "nobody")
    assert (ran.code, ran.err) == (1, "Error: there is no session nobody in namespace vdi-sessions\n")


# share, unshare


def test_share_writes_a_guest_and_says_the_address(
    vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    __import__("vdi.cli.session.commands")
    monkeypatch.setattr("vdi.cli.session.commands.now_utc", lambda: NOW)
    monkeypatch.setattr("vdi.cli.session.kube_backend.now_utc", lambda: NOW)
    fake.put(SESSIONS, a_session(status=running(), access=[{"user": "eve@example.com"}]))
    words = ["--role", "collaborator", "--expires-in", "2h"]
    ran = vdi("session", "share", "alice-desktop", "Bob@example.com", *words)
    assert ran.out == (
        "session alice-desktop is shared with bob@example.com as collaborator until 2026-11-20T10:05:00Z;"
        " send them its address: https://alice-desktop.vdi.localhost:1\n"
    )
    bob = {"user": "bob@example.com", "role": "collaborator", "expires": "2026-11-20T10:05:00Z"}
    assert fake.objects[ALICE]["spec"]["access"] == [{"user": "eve@example.com"}, bob]
    assert set(fake.bodies[0]["metadata"]) == {"uid", "resourceVersion"}, "nobody else's guest is lost"


def test_unshare_of_a_collaborator_says_how_to_end_what_they_started(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running(), access=[{"user": "bob@example.com", "role": "collaborator"}]))
    ran = vdi("session", "unshare", "alice-desktop", "Bob@example.com")
    assert ran.out.splitlines()[1] == (
        "Programs that Bob@example.com started in the desktop are still running. To end them: vdi session restart "
        "alice-desktop"
    )


def test_unshare_takes_the_guest_off(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running(), access=[{"user": "bob@example.com"}]))
    ran = vdi("session", "unshare", "alice-desktop", "bob@example.com")
    assert ran.out == "session alice-desktop is no longer shared with bob@example.com\n"
    assert fake.objects[ALICE]["spec"]["access"] == []
    again = vdi("session", "unshare", "alice-desktop", "bob@example.com")
    assert (again.code, again.err) == (
        1,
        "Error: This desktop is not shared with bob@example.com. It is shared with no one.\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["alice@example.com"], 1, "alice@example.com owns this desktop"),
        (["bob"], 1, "'bob' is not an e-mail address"),
        (["bob@example.com", "--expires-in", "soon"], 2, "--expires-in: 'soon' is not a duration"),
        (["bob@example.com", "--role", "owner"], 2, "owner"),
    ],
)
def test_a_share_that_makes_no_sense_changes_nothing(
    vdi: Vdi, fake: FakeCluster, words: list[str], code: int, said: str
) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    ran = vdi("session", "share", "alice-desktop", *words)
    assert ran.code == code
    assert said in ran.err
    assert fake.bodies == []


def test_a_viewer_of_a_web_image_is_refused_and_a_collaborator_is_not(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    template = a_template(protocol="Web")
    fake.put(TEMPLATES, template)
    ran = vdi("session", "share", "alice-desktop", "bob@example.com")
    assert ran.code == 1 and "the image of this desktop serves its own page (protocol Web)" in ran.err
    assert "vdi session share alice-desktop bob@example.com --role collaborator" in ran.err
    assert fake.bodies == []
    assert vdi("session", "share", "alice-desktop", "bob@example.com", "--role", "collaborator").code == 0


def test_guests_are_edited_again_when_somebody_else_was_faster(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    fake.refuse("PATCH", ALICE, 409, reason="Conflict", message="the object has been modified")
    ran = vdi("session", "share", "alice-desktop", "bob@example.com")
    assert (ran.code, ran.err) == (
        1,
        "Error: session alice-desktop keeps being changed by others; try again\n",
    )
    assert [request for request in fake.requests if request[0] == "PATCH"] == [("PATCH", ALICE)] * 5
