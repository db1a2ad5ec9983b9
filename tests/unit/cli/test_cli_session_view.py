"""The page of `show`, and the words for a session's state."""

from typing import Any

import msgspec
import pytest

from unit.cli.conftest import NOW
from unit.cli.objects import a_session, a_template, conditions, running
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cli.session.view import SessionDetails, details_lines, expires_in, watch_line


def session(**parts: Any) -> VDISession:
    return msgspec.convert(a_session(**parts), VDISession)


def test_a_template_without_gpus_shows_no_gpu() -> None:
    template = msgspec.convert(
        a_template(resources={"defaultGPU": 0, "defaultCPU": "2"}), VDITemplate
    )
    lines = details_lines(SessionDetails(session(resources={"memory": "8Gi"}), template), NOW)
    assert "Resources: no GPU, 8Gi memory, 2 CPU" in lines


def test_details_of_a_running_session() -> None:
    status = running(templateRevision="3", homeClaim="home-alice")
    assert (
        "\n".join(details_lines(SessionDetails(session(status=status)), NOW))
        == "Session:   vdi-sessions/alice-desktop\n"
        "User:      alice@example.com\n"
        "Template:  ubuntu-desktop (revision 3)\n"
        "Phase:     Running\n"
        "URL:       https://alice-desktop.vdi.localhost:1\n"
        "Resources: unknown: the template cannot be read\n"
        "Home:      template's value, kept after the session ends\n"
        "Created:   2026-11-20T08:00:00Z (5m ago)\n"
        "Started:   2026-11-20T08:00:01Z (4m59s ago, ready after 8s)\n"
        "Expires:   2026-11-20T16:00:01Z (in 7h55m; timeout 8h)\n"
        "Node:      node-1\n"
        "Pod:       alice-desktop\n"
        "\n"
        "Conditions\n"
        "  TYPE            STATUS   REASON          SINCE   MESSAGE\n"
        "  TemplateFound   True     TemplateFound   4m55s   -\n"
        "  Admitted        True     Admitted        4m55s   -\n"
        "  HomeBound       True     HomeBound       4m55s   -\n"
        "  PodReady        True     PodReady        4m55s   -\n"
        "  RouteReady      True     RouteReady      4m55s   -"
    )


def test_a_run_without_a_home_keeps_no_files() -> None:
    none = "Home:      none: files are deleted with the session"
    assert none in details_lines(SessionDetails(session(status=running())), NOW)
    assert none not in details_lines(SessionDetails(session()), NOW)


def test_details_have_queue_warnings_and_failures() -> None:
    reported = conditions(Expiring=True, Idle=True)
    reported[0]["message"], reported[1]["message"] = (
        "The desktop ends at 08:09.",
        "Nobody has touched it for 25m.",
    )
    failures = {
        "count": 2,
        "reason": "OOMKilled",
        "message": "It ran out of memory.",
        "time": "2026-11-20T08:04:00Z",
    }
    status = running(
        conditions=reported, failures=failures, lastActivityTime="2026-11-20T07:40:00Z"
    )
    lines = details_lines(
        SessionDetails(session(status=status, idleTimeout="30m", priority=5)), NOW
    )
    for line in (
        "Warnings:  The desktop ends at 08:09.; Nobody has touched it for 25m.",
        "Failures:  lost 2 times in a row, last (1m ago): It ran out of memory.",
        "Priority:  5",
        "Idle:      after 30m without use",
        "Last used: 2026-11-20T07:40:00Z (25m ago)",
    ):
        assert line in lines
    queue = {"position": 3, "reason": "GPUsBusy", "earliestSlot": "2026-11-20T09:00:00Z"}
    waiting = details_lines(
        SessionDetails(session(status={"phase": "Pending", "queue": queue})), NOW
    )
    assert (
        "Queue:     number 3 in line, capacity expected by 2026-11-20T09:00:00Z (GPUsBusy)"
        in waiting
    )
    queue = {"position": 1, "reason": "NoGPUs", "nodeRequestTime": "2026-11-20T08:04:20Z"}
    waiting = details_lines(
        SessionDetails(session(status={"phase": "Pending", "queue": queue})), NOW
    )
    assert "Queue:     number 1 in line, node requested 40s ago (NoGPUs)" in waiting


def test_a_failure_is_in_note_and_details() -> None:
    since = "2026-11-20T08:04:00Z"
    hangs = {
        "type": "PodReady",
        "status": "False",
        "reason": "NotResponding",
        "lastTransitionTime": since,
    }
    frozen = session(status={"phase": "Creating", "message": "It hangs.", "conditions": [hangs]})
    line = f"Failure:   Not responding since {since} (1m ago). Restart it: unsaved work is lost."
    assert any(shown.startswith(line) for shown in details_lines(SessionDetails(frozen), NOW))
    assert (
        watch_line(frozen, "alice", NOW) == "08:05:00Z  alice  Creating  not responding  It hangs."
    )


def test_an_explanation_is_shown_unless_the_status_has_it() -> None:
    page = SessionDetails(session(status=running(message="Same.")), explanation="Same.")
    assert not [line for line in details_lines(page, NOW) if line.startswith("Why:")]
    assert "Why:       Because." in details_lines(
        SessionDetails(session(), explanation="Because."), NOW
    )


@pytest.mark.parametrize(
    ("end", "left"), [("", "-"), ("2026-11-20T08:05:00Z", "over"), ("2026-11-20T08:35:00Z", "30m")]
)
def test_expires_in_is_the_time_left(end: str, left: str) -> None:
    assert expires_in(session(status={"expiresAt": end}), NOW) == left


def test_a_change_is_one_line() -> None:
    creating = session(status={"phase": "Creating", "message": "Pulling."})
    assert (
        watch_line(creating, "alice-desktop", NOW) == "08:05:00Z  alice-desktop  Creating  Pulling."
    )
    assert watch_line(None, "alice-desktop", NOW) == "08:05:00Z  alice-desktop  deleted"
