"""Text that other people wrote, in every field of all that a command prints: nothing of it acts on
the terminal.
"""

import io
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
import yaml

from support.hostile import HOSTILE, leaves, sample, unsafe, with_text
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import CORE, EVENTS, POOLS, SESSIONS, TEMPLATES, a_pod, a_session, running
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import CliError
from vdi.cli.findings import FindingsOutput, print_report
from vdi.cli.logins import Login, Logins, write_logins
from vdi.cli.main import main
from vdi.cli.output import columns, fact_lines, now_utc
from vdi.cli.progress import ProgressView
from vdi.cli.session.operations import as_session
from vdi.cli.session.view import SessionDetails, details_lines, watch_line
from vdi.cli.terminal import guarded_output, style
from vdi.findings.model import Finding, Severity
from vdi.findings.render import Report
from vdi.gateway.api.component import OPERATIONS
from vdi.printable import escape, is_printable

Typed = Callable[..., str]
# What rich writes for a spinner.
RICH = ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\x1b[2;32m", "\x1b[2;33m", "\r")


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@contextmanager
def screen() -> Iterator[Screen]:
    """stdout and stderr of a terminal, guarded as `main` guards them."""
    shown = Screen()
    with redirect_stdout(shown), redirect_stderr(shown), guarded_output():
        yield shown


@pytest.fixture
def typed(
    fake: FakeCluster, clean_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Typed:
    """Type a command at a terminal; returns what the terminal got."""
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
    monkeypatch.setenv("TERM", "xterm")

    def run(*words: str) -> str:
        shown = Screen()
        with redirect_stdout(shown), redirect_stderr(shown):
            main(words)
        return shown.getvalue()

    return run


def check(written: str, about: object) -> None:
    assert not unsafe(written), f"{about}: {unsafe(written)}\n{written!r}"
    assert "\x1b[31mred" not in written, f"{about}: a colour of somebody else"


def session(text: str = "text", **status: Any) -> dict[str, Any]:
    """A session with this text everywhere; its name stays one that a path can have."""
    obj: dict[str, Any] = sample(VDISession, text)
    obj["metadata"] |= {"name": "alice-desktop", "namespace": "vdi-sessions"}
    obj["spec"]["timeout"] = "8h"
    obj["status"] |= {"podName": "alice-desktop", **status}
    return obj


OF_SESSIONS = (["session", "ls", "-o", "wide"], ["session", "show", "alice-desktop"])
MORE_OF_SESSIONS = (
    ["session", "ls", "-A"],
    *([noun, verb, *name, "-o", form] for noun, verb, name in (
        ("session", "ls", []), ("session", "show", ["alice-desktop"])) for form in ("json", "yaml")),
    ["session", "ls", "-o", "name"],
    ["session", "suspend", "alice-desktop"],
    ["session", "extend", "alice-desktop", "2h"],
    ["session", "open", "alice-desktop"],
    ["session", "share", "alice-desktop", "bob@example.com"],
    ["session", "logs", "alice-desktop"],
    ["home", "ls"],
)  # fmt: skip


def test_sessions_with_hostile_text_in_all_fields(typed: Typed, fake: FakeCluster) -> None:
    for phase in ("Pending", "Running", "Failed"):
        fake.put(SESSIONS, session(HOSTILE, phase=phase))
        for words in (*OF_SESSIONS, *MORE_OF_SESSIONS):
            check(typed(*words), (phase, words))
    assert "forged" in typed("session", "show", "alice-desktop"), "it is shown, as text"


@pytest.mark.parametrize("path", list(leaves(session())), ids=lambda path: ".".join(map(str, path)))
def test_a_session_with_hostile_text_in_one_field(
    typed: Typed, fake: FakeCluster, path: tuple[str | int, ...]
) -> None:
    """Times, names and codes too: a value that cannot be read is printed in an error."""
    hostile = with_text(session(phase="Running"), path, HOSTILE)
    fake.answer("GET", SESSIONS, {"items": [hostile], "metadata": {"resourceVersion": "1"}})
    fake.answer("GET", f"{SESSIONS}/alice-desktop", hostile)
    for words in OF_SESSIONS:
        check(typed(*words), words)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "collection", "noun"), [(VDITemplate, TEMPLATES, "template"), (VDIPool, POOLS, "pool")]
)
def test_templates_and_pools_with_hostile_text(
    typed: Typed, fake: FakeCluster, kind: type, collection: str, noun: str
) -> None:
    obj = sample(kind)
    variants = [with_text(obj, path, HOSTILE) for path in leaves(obj)]
    for hostile in (sample(kind, HOSTILE), *variants):
        fake.answer("GET", collection, {"items": [hostile], "metadata": {"resourceVersion": "1"}})
        fake.answer("GET", f"{collection}/x", hostile)
        for words in ([noun, "ls", "-o", "wide"], [noun, "show", "x"]):
            check(typed(*words), words)


def test_pods_events_and_logs_with_hostile_text(typed: Typed, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(status=running()))
    event = {
        "metadata": {"name": "x", "creationTimestamp": "2026-11-20T09:00:00Z"}, "note": "note", "reason": "Failed",
        "regarding": {"kind": "Pod", "name": "alice-desktop"}, "eventTime": "2026-11-20T09:00:00Z", "type": "Warning",
    }  # fmt: skip
    waiting = a_pod(ready=False)
    waiting["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "ErrImagePull", "message": "message"}
    }
    for pod in (with_text(waiting, path, HOSTILE) for path in leaves(waiting)):
        fake.answer("GET", f"{CORE}/pods/alice-desktop", pod)
        check(typed("session", "show", "alice-desktop"), pod)
    for found in (with_text(event, path, HOSTILE) for path in leaves(event)):
        fake.answer("GET", EVENTS, {"items": [found], "metadata": {"resourceVersion": "1"}})
        check(typed("session", "show", "alice-desktop"), found)
    fake.put(f"{CORE}/pods", a_pod())
    fake.logs[f"{CORE}/pods/alice-desktop"] = f"{HOSTILE}\nthe end"
    shown = typed("session", "logs", "alice-desktop")
    check(shown, "logs")
    assert "the end" in shown


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422, 500])
def test_a_refusal_of_the_api_server_that_repeats_hostile_values(
    typed: Typed, fake: FakeCluster, code: int
) -> None:
    causes = [
        {
            "field": f"spec.user{HOSTILE}",
            "message": f'Invalid value: "{HOSTILE}": {HOSTILE}',
            "reason": HOSTILE,
        }
    ]
    for details in ({}, {"causes": causes, "name": HOSTILE}):
        fake.refuse("GET", SESSIONS, code, reason="Invalid", message=HOSTILE, details=details)
        check(typed("session", "ls"), code)
        check(typed("--debug", "session", "ls"), code)


SCHEDULE_OFF = ["session", "schedule", "alice-desktop", "--off"]
GATEWAY = (
    ["whoami"],
    ["whoami", "-o", "json"],
    ["session", "ls", "-o", "wide"],
    ["session", "show", "alice-desktop"],
    ["session", "open", "alice-desktop"],
    ["session", "suspend", "alice-desktop"],
    ["session", "rm", "alice-desktop"],
    ["session", "create", "--template", "x"],
    ["template", "ls", "-o", "wide"],
    ["template", "show", "x"],
    ["session", "schedule", "alice-desktop", "--at", "08:30", "--time-zone", "Etc/UTC"],
    SCHEDULE_OFF,
    ["usage"],
    ["usage", "-o", "csv"],
    ["logout"],
)


def test_a_gateway_that_answers_with_hostile_text(
    typed: Typed, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    login = Login(HOSTILE, "vdi_token", HOSTILE, "")
    for text in ("text", HOSTILE):
        for operation in OPERATIONS:
            path = "/api/v1" + operation.path.replace(
                "{name}", "alice-desktop" if "session" in operation.path else "x"
            )
            if operation.answer:
                answer = sample(operation.answer, text)
                for one in (
                    answer,
                    *(answer["items"] if isinstance(answer.get("items"), list) else []),
                ):
                    if "next" in one:
                        one["next"] = ""
                    if "status" in one and "phase" in one["status"]:
                        one["status"]["phase"] = "Running"
                fake.answer(operation.method, path, answer)
        for words in GATEWAY:
            write_logins(Logins(fake.url, {fake.url: login}))
            check(typed(*words), words)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422, 502])
def test_a_gateway_that_refuses_with_hostile_text(
    typed: Typed, fake: FakeCluster, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    write_logins(Logins(fake.url, {fake.url: Login("alice", "vdi_token", "", "")}))
    wrong = {"field": HOSTILE, "value": HOSTILE, "allowed": HOSTILE}
    for errors in ([], [wrong], [{"field": HOSTILE, "allowed": HOSTILE}]):
        for path in ("sessions", "sessions/alice-desktop", "me", "templates"):
            fake.refuse("GET", f"/api/v1/{path}", code, detail=HOSTILE, errors=errors)
        for words in (["session", "ls"], ["whoami"], ["template", "ls"], SCHEDULE_OFF):
            check(typed(*words), words)


def test_login_at_a_gateway_that_answers_with_hostile_text(
    typed: Typed, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    fake.answer("GET", "/api/v1/openapi.json", {"openapi": "3.1.0"})
    for answer in (
        {"user": HOSTILE, "token": "vdi_x", "expires": HOSTILE}, {"user": HOSTILE}, {"error_description": HOSTILE}
    ):  # fmt: skip
        fake.answer("POST", "/cli/token", answer)
        monkeypatch.setattr(sys, "stdin", io.StringIO("code\n"))
        shown = typed("login", fake.url, "--no-browser")
        check(shown, answer)
        assert fake.url in shown


@pytest.mark.parametrize("output", list(FindingsOutput))
def test_findings_with_hostile_text_in_all_fields(output: FindingsOutput) -> None:
    broken = sample(Finding, HOSTILE)
    for severity in Severity:
        for caused_by in ("", HOSTILE):
            finding = msgspec.convert(
                broken | {"severity": severity.value, "caused_by": caused_by}, Finding
            )
            report = Report(
                tool="vdi doctor",
                findings=[finding],
                summary=HOSTILE,
                notes=[HOSTILE],
                context={"x": HOSTILE},
            )
            with screen() as shown:
                print_report(report, output)
    check(shown.getvalue(), output)


def test_a_command_of_a_finding_stays_one_line() -> None:
    finding = Finding(code="X", severity=Severity.ERROR, object="Pod/a\nOK       Y  all is well")
    with screen() as shown:
        print_report(Report(tool="vdi doctor", findings=[finding]), FindingsOutput.TEXT)
    assert not any(line.startswith("OK") for line in shown.getvalue().splitlines())


@pytest.mark.parametrize("kind", [CliError, ValueError, typer.BadParameter])
def test_errors_and_tracebacks_with_hostile_text(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise kind(HOSTILE)

    monkeypatch.setattr("vdi.cli.main.load_noun", fail)
    for words in (["session", "ls"], ["--debug", "session", "ls"]):
        shown = typed(*words)
        check(shown, words)
        assert "forged" in shown


def test_progress_with_hostile_text() -> None:
    with screen() as shown, ProgressView() as view:
        view.waiting(HOSTILE)
        view.say(HOSTILE)
        view.passed(HOSTILE, 1.0)
        typer.echo(HOSTILE)
    written = shown.getvalue()
    for sequence in RICH:
        written = written.replace(sequence, "")
    check(written, "progress")


def test_our_own_colours_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with screen() as shown:
        typer.echo(columns(["PHASE"], [["Running"]])[1])
        typer.echo(style(HOSTILE, typer.colors.RED, bold=True))
    assert "\x1b[32mRunning\x1b[0m\n\x1b[31m\x1b[1mx\\u001b]0;title" in shown.getvalue()
    check(shown.getvalue(), "styles")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_reaches_a_terminal_that_wants_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with screen() as shown, ProgressView() as view:
        typer.echo(style("text", typer.colors.RED, bold=True))
        view.passed("a stage", 1.0)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.getvalue()), shown.getvalue()
    assert "text\n" in shown.getvalue()


def test_no_row_or_fact_can_be_forged_with_a_new_line() -> None:
    lines = columns(["NAME", "NOTE"], [["a", "b\nc   d"], ["e", "f\n"]])
    assert lines == ["NAME   NOTE", "a      b\\u000ac   d", "e      f"]
    assert fact_lines({"URL": "https://x\nPassword: y"}) == [
        "URL:       https://x\n           Password: y"
    ]
    broken = as_session(a_session(status=running(message="a\nb")))
    assert "\n" not in watch_line(broken, "alice", now_utc())
    assert "\nPassword" not in "\n".join(
        details_lines(SessionDetails(broken, explanation="x\nPassword: y"), now_utc())
    )


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_data_with_hostile_text_is_read_as_it_was(
    typed: Typed, fake: FakeCluster, form: str
) -> None:
    fake.put(SESSIONS, a_session(status=running(message=HOSTILE)))
    text = typed("session", "show", "alice-desktop", "-o", form)
    check(text, form)
    data = json.loads(text) if form == "json" else yaml.safe_load(text)
    assert data["status"]["message"] == HOSTILE


def test_lone_surrogates_are_escaped() -> None:
    with screen() as shown:
        typer.echo("a\ud800b\udfff")
    assert shown.getvalue() == "a\\ud800b\\udfff\n"


def test_escapes_are_those_of_json_and_stable() -> None:
    text = escape(HOSTILE)
    assert is_printable(text)
    assert escape(text) == text
    assert json.loads(f'"{text}"') == HOSTILE
    assert (
        escape("\u3164\u115f\u2800\u034f\u180b\u17b4\ufe00")
        == r"\u3164\u115f\u2800\u034f\u180b\u17b4\ufe00"
    )
    assert escape("a\U000e0100") == r"a\udb40\udd00"
    assert escape("⚠\ufe0f") == "⚠\ufe0f"
    assert escape("Grüße, 日本\u3000語 🖥\u00a0✓") == "Grüße, 日本\u3000語 🖥\u00a0✓"


def test_escapes_of_many_characters_take_little_memory() -> None:
    everything = "".join(map(chr, range(0x20000)))
    escape("first")
    tracemalloc.start()
    try:
        escape(everything)
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()


def test_ascii_streams_are_guarded_too() -> None:
    """click writes past a stream that is declared as ASCII, to the bytes below."""
    done = subprocess.run(
        [sys.executable, "-m", "vdi", "session", "ls"],
        env={
            "PYTHONIOENCODING": "ascii",
            "PYTHONUTF8": "0",
            "KUBECONFIG": re.sub("[\0:]", "", f"{HOSTILE}ü"),
        },
        capture_output=True,
        check=False,
    )
    shown = done.stderr.decode()
    check(shown, "ascii")
    assert "forged" in shown
    assert "ü" in shown
