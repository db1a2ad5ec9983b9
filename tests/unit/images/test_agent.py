"""`vdi-agent` of the desktop image: who may ask, what it says when it cannot know, and what a
notice is.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from support.waiting import PATIENCE
from unit.devcluster.binaries_servers import script
from unit.images.image_scripts import load_library, port_of, serve_agent


class Screen:
    """In the place of the notification daemon."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.touched = 0.0
        self.number = "7\n"
        self.notices = agent_module("notices").Notices({}, lambda: self.touched)
        self.notices.run = self.run

    def run(self, argv: list[str]) -> str:
        self.lines.append(" ".join(argv))
        return self.number


def agent_module(name: str) -> Any:
    return load_library(f"agent.{name}")


@pytest.fixture
def screen() -> Screen:
    return Screen()


class Report:
    """In the place of the activity: a report, or why there is none."""

    def report(self) -> dict[str, Any]:
        return {"idleSeconds": 1.5, "viewers": 1, "connectedSeconds": None}


@pytest.fixture
def agent(screen: Screen, tmp_path: Path) -> Iterator[Any]:
    display = {"DISPLAY": ":77777", "XAUTHORITY": "/nowhere"}
    with serve_agent(
        activity=Report(),
        notices=screen.notices,
        photon=load_library("photon").Photon(display["DISPLAY"], Path(display["XAUTHORITY"])),
        script_reports=tmp_path,
        transfers=agent_module("transfers").Transfers(),
        transfers_digest=sha256(b"selkies").hexdigest(),
        thumbnails=agent_module("thumbnails").Thumbnails(display),
    ) as server:
        yield server


@pytest.fixture
def port(agent: Any) -> int:
    return port_of(agent)


def ask(
    port: int,
    method: str,
    path: str,
    token: str = "secret",
    body: str | None = None,
    seconds: float = PATIENCE,
) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body=body, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_activity_is_reported_to_who_has_the_token_only(port: int) -> None:
    status, body = ask(port, "GET", "/activity")
    assert status == 200
    assert json.loads(body) == {"idleSeconds": 1.5, "viewers": 1, "connectedSeconds": None}
    assert ask(port, "GET", "/activity", token="wrong")[0] == 401
    assert ask(port, "GET", "/activity", token="\xff")[0] == 401
    assert ask(port, "POST", "/notice", token="", body='{"id": "a", "text": "b"}')[0] == 401
    assert ask(port, "GET", "/notice")[0] == 404


def test_graphics_are_reported_once_all_is_decided(tmp_path: Path) -> None:
    read_graphics = agent_module("activity").read_graphics
    drawn = {
        "display": "X11",
        "renderer": "Software",
        "device": "",
        "reason": "NoGPU",
        "message": "the pod has no GPU",
    }
    (tmp_path / "graphics").write_text(json.dumps(drawn))
    assert read_graphics(tmp_path) is None

    (tmp_path / "picture").write_text(
        json.dumps({"encoder": "x264", "hardware": False, "message": "no NVENC"})
    )
    assert read_graphics(tmp_path) == {
        **drawn,
        "encoder": "x264",
        "hardwareEncoder": False,
        "encoderMessage": "no NVENC",
    }


def test_what_cannot_be_known_is_no_number(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read_input = load_library("last_input").read_input
    monkeypatch.setattr(Report, "report", lambda _: read_input(-1))
    status, why = ask(port, "GET", "/activity")
    assert status == 503
    assert "the time of the last input can't be read" in why


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "id: None is not allowed"),
        ("[]", "a notice is an object"),
        ('{"id": "a", "text": 3}', "text: 3 is not allowed"),
        ('{"id": "a", "text": "b", "until": "soon"}', "until: 'soon' is not allowed"),
        ("no JSON", "Expecting value"),
        ("x" * 20_000, "Content-Length: 20000 is not allowed"),
    ],
)
def test_a_notice_that_is_none_is_refused_in_words(
    port: int, screen: Screen, body: str, words: str
) -> None:
    status, why = ask(port, "POST", "/notice", body=body)
    assert (status, words in why) == (400, True), why
    assert screen.lines == []


def test_a_notice_is_shown_once_replaced_and_withdrawn(port: int, screen: Screen) -> None:
    for text in ("Press <a key> & go on", "Press <a key> & go on", "Too late", ""):
        assert (
            ask(
                port,
                "POST",
                "/notice",
                body=json.dumps({"id": "idle", "title": "Hello?", "text": text}),
            )[0]
            == 200
        )
    shown, replaced, closed = screen.lines
    assert shown.endswith("-- Hello? Press &lt;a key&gt; &amp; go on")
    assert "--replace-id" not in shown
    assert "--replace-id=7" in replaced
    assert closed.endswith("CloseNotification uint32:7")


def test_notice_has_times_in_the_zone_of_the_desktop(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices = agent_module("notices")
    end = "It is suspended at 16:05 UTC."
    monkeypatch.delenv("TZ", raising=False)
    assert notices.in_local_time(end) == end
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        screen.notices.post(notices.Notice("end", "", end, float("inf"), until_input=False))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert screen.lines[-1].endswith("It is suspended at 21:35.")


def test_what_is_over_is_taken_away(screen: Screen) -> None:
    notice_of = agent_module("notices").Notice
    now = 1_000_000.0
    old = notice_of(id="old", title="", text="a", until=now, until_input=False)
    for notice in (
        old,
        notice_of(id="idle", title="", text="b", until=float("inf"), until_input=True),
    ):
        screen.notices.post(notice)
    screen.notices.look()
    assert list(screen.notices.shown) == ["idle"]
    screen.touched = screen.notices.shown["idle"].came + 1
    screen.notices.look()
    assert screen.notices.shown == {}
    assert len(screen.lines) == 4


@pytest.mark.parametrize(
    ("env", "header"),
    [
        ({"SELKIES_MASTER_TOKEN": "m"}, "Bearer m"),
        ({"SELKIES_BASIC_AUTH_PASSWORD": "p"}, "Basic dXNlcjpw"),
        ({"SELKIES_BASIC_AUTH_USER": "me", "SELKIES_BASIC_AUTH_PASSWORD": "p"}, "Basic bWU6cA=="),
    ],
)
def test_the_agent_asks_selkies_as_the_desktop_is_guarded(env: dict[str, str], header: str) -> None:
    assert agent_module("selkies_api").authorization(env) == header


def test_the_mark_is_armed_for_seconds_by_who_has_the_token(port: int) -> None:
    assert ask(port, "POST", "/photon", token="wrong", body='{"seconds": 5}')[0] == 401
    for wrong in (
        '{"seconds": 0}',
        '{"seconds": 61}',
        '{"seconds": true}',
        '{"seconds": "5"}',
        "[]",
        "x",
    ):
        assert ask(port, "POST", "/photon", body=wrong)[0] == 400, wrong
    status, words = ask(port, "POST", "/photon", body='{"seconds": 5}')
    assert (status, "the X server can't be asked" in words) == (503, True)


def test_a_probe_of_a_desktop_on_wayland_is_refused_in_words(agent: Any, port: int) -> None:
    agent.services = agent.services._replace(photon=agent_module("server").NoMark())
    status, words = ask(port, "POST", "/photon", body='{"seconds": 5}')
    assert (status, "needs a desktop on X11" in words) == (503, True)


def test_a_browser_of_a_probe_is_no_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    photon = load_library("photon").Photon(":1", Path("/nowhere"))
    photon.thread, photon.since = threading.Thread(), 50.0
    assert not photon.covers(51.0), "none is under way"
    monkeypatch.setattr(photon.thread, "is_alive", lambda: True)
    assert photon.covers(51.0)
    assert not photon.covers(49.0), "who was there before is no probe"


class Selkies:
    """The class of Selkies that takes what browsers send."""

    def __init__(self) -> None:
        self.taken: list[object] = []

    async def on_message(self, message: str, *args: object, **kwargs: object) -> None:
        self.taken.append((message, args, kwargs))


@pytest.mark.parametrize(
    ("message", "is_input"),
    [
        *(
            (message, True)
            for message in ("kd,97", "kh,97", "m,10,20,0,0", "m2,1,0,0,0", "sf,0,9", "co,end,é")
        ),
        *(
            (message, False)
            for message in ("kd,269025097", "ku,97", "js,b,0,1,1", "SETTINGS,{}", "cw,YQ==", "pong")
        ),
    ],
)
def test_input_of_people_ends_the_idle_time(
    monkeypatch: pytest.MonkeyPatch, message: str, is_input: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Handler(Selkies):
        pass

    last_input = load_library("last_input")
    memory = last_input.create_input_memory()
    last_input.note_input(Handler, memory)
    ask, handler = partial(last_input.read_input, memory), Handler()
    now[0] = 1060.0
    assert ask() == (60.0, False), "untouched since its start"
    asyncio.run(handler.on_message(message, "primary", conn_id=1))
    now[0] = 1062.0
    assert ask() == ((2.0, True) if is_input else (62.0, False))
    assert handler.taken == [(message, ("primary",), {"conn_id": 1})]
    os.close(memory)


def test_a_thumbnail_is_taken_for_who_has_the_token_only(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDI_AGENT_TOKEN", "hidden")
    capture = script(tmp_path / "capture-thumbnail", 'printf "%s %s" "$DISPLAY" "$VDI_AGENT_TOKEN"')
    monkeypatch.setattr("agent.thumbnails.CAPTURE", str(capture))
    assert ask(port, "GET", "/thumbnail", token="wrong")[0] == 401
    assert ask(port, "POST", "/thumbnail", body="{}")[0] == 404
    assert ask(port, "GET", "/thumbnail") == (
        200,
        ":77777 ",
    ), "the program gets the display, and no secret"


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("echo no cookie >&2; exit 1", "the screen can't be captured: no cookie"),
        ("exec sleep 9", "timed out after"),
    ],
)
def test_a_screen_that_cannot_be_captured_is_no_thumbnail(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, words: str
) -> None:
    monkeypatch.setattr(
        "agent.thumbnails.CAPTURE", str(script(tmp_path / "capture-thumbnail", does))
    )
    monkeypatch.setattr("agent.thumbnails.CAPTURE_SECONDS", 0.2 if "sleep" in does else 5.0)
    status, why = ask(port, "GET", "/thumbnail")
    assert (status, words in why) == (503, True), why


def test_one_thumbnail_is_taken_at_a_time(agent: Any, port: int) -> None:
    with agent.services.thumbnails.lock:
        assert ask(port, "GET", "/thumbnail") == (
            503,
            "a picture of the screen is being taken already",
        )


def test_a_desktop_on_wayland_has_no_thumbnail_and_says_why() -> None:
    thumbnails = agent_module("thumbnails").Thumbnails({"WAYLAND_DISPLAY": "wayland-1"})
    with pytest.raises(load_library("x11").UnknownError, match="this desktop is on Wayland"):
        thumbnails.take()


def test_start_up_scripts_are_reported_in_their_order(port: int, tmp_path: Path) -> None:
    assert ask(port, "GET", "/startup-scripts") == (200, '{"scripts": []}')
    for number, source in enumerate(("template", "user")):
        (tmp_path / str(number)).write_text(
            json.dumps({"source": source, "state": "Running", "output": ""})
        )
    (tmp_path / "2.new").write_text("{")
    status, body = ask(port, "GET", "/startup-scripts")
    assert (status, [script["source"] for script in json.loads(body)["scripts"]]) == (
        200,
        ["template", "user"],
    )
    (tmp_path / "1").write_text("{")
    assert ask(port, "GET", "/startup-scripts")[0] == 503
    assert ask(port, "GET", "/startup-scripts", token="wrong")[0] == 401


def test_transfers_are_reported_by_selkies_and_read_by_the_gateway(port: int) -> None:
    event = {
        "event": "file.download",
        "filename": "a" * 600 + "\ud800",
        "size_bytes": True,
        "content": "x",
    }
    assert ask(port, "POST", "/transfers", body=json.dumps(event))[0] == 404  # the gateway's token
    assert ask(port, "GET", "/transfers", token="selkies")[0] == 401
    assert ask(port, "POST", "/notice", token="selkies", body='{"id": "a", "text": "b"}')[0] == 401
    for wrong in ("", "[]", '{"event": 1}', "x" * 20_000):
        assert ask(port, "POST", "/transfers", token="selkies", body=wrong)[0] == 400
    assert ask(port, "POST", "/transfers", token="selkies", body=json.dumps(event))[0] == 200
    first = json.loads(ask(port, "GET", "/transfers?&0")[1])
    assert [(one["number"], one["event"]) for one in first["events"]] == [
        (1, "log.begin"),
        (2, "file.download"),
    ]
    assert set(first["events"][1]) == {"number", "at", "age", "event", "filename"}
    assert first["events"][1]["filename"] == "a" * 512
    assert json.loads(ask(port, "GET", "/transfers?other&2")[1])["events"][0]["number"] == 1
    rest = json.loads(ask(port, "GET", f"/transfers?{first['log']}&1")[1])
    assert [one["number"] for one in rest["events"]] == [2], "the first is written, and gone"
    assert ask(port, "GET", "/transfers?wait=long")[0] == 400


def test_transfers_wait_for_the_next_event() -> None:
    transfers = agent_module("transfers").Transfers()
    threading.Timer(0.05, transfers.add, [b'{"event": "session.connect"}']).start()
    assert [event["number"] for event in transfers.read(f"{transfers.log}&1")["events"]] == [2]


def test_report_that_is_sent_again_is_one_event() -> None:
    transfers = agent_module("transfers").Transfers()
    for number in (1, 1, 2, 1, 2, 3):
        transfers.add(b'{"event": "file.download", "report": %d}' % number)
    assert [event["event"] for event in transfers.events] == ["log.begin", *["file.download"] * 3]


@pytest.mark.parametrize("moment", ["now", "9999-99-99", None, 7])
def test_event_without_a_valid_time_has_just_happened(moment: object) -> None:
    assert agent_module("transfers").age_of(moment) == 0.0


def test_events_that_no_one_reads_become_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module("transfers"), "MAX_EVENTS", 2)
    transfers = agent_module("transfers").Transfers()
    for _ in range(5):
        transfers.add(b'{"event": "file.download", "filename": "x"}')
    found = [
        (event["number"], event["event"], event.get("count"))
        for event in transfers.read("&0")["events"]
    ]
    assert found == [(5, "audit.dropped", 5), (6, "file.download", None)]


class Cgroup:
    """The files of a container's memory, of either version."""

    def __init__(self, root: Path, version: str) -> None:
        self.root, is_first = root, version == "v1"
        self.folder = root / "memory" if is_first else root
        self.folder.mkdir(exist_ok=True)
        self.usage = self.folder / ("memory.usage_in_bytes" if is_first else "memory.current")
        self.limit = self.folder / ("memory.limit_in_bytes" if is_first else "memory.max")
        self.events = self.folder / ("memory.oom_control" if is_first else "memory.events")
        (self.folder / "memory.stat").write_text(
            "anon 5\ninactive_file 100\nactive_file 200\ntotal_active_file 200\n"
        )
        self.limit.write_text("1000\n")
        self.set(0)

    def set(self, used: int, kills: int = 0) -> None:
        self.usage.write_text(f"{used + 300}\n")
        self.events.write_text(f"under_oom 0\noom_kill {kills}\n")


@pytest.fixture(params=["v1", "v2"])
def cgroup(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroup:
    return Cgroup(tmp_path, request.param)


class Told:
    """What a watch has said."""

    def __init__(self, cgroup: Cgroup) -> None:
        self.kills = 0
        self.short: list[dict[str, int] | None] = []
        watch_of = load_library("memory_use").MemoryWatch
        self.watch = watch_of(self.killed, self.short.append, cgroup.root)

    def killed(self) -> None:
        self.kills += 1


def test_memory_counts_no_page_cache(cgroup: Cgroup) -> None:
    told = Told(cgroup)
    cgroup.set(890)
    assert told.watch.report() == {"used": 890, "limit": 1000, "isShort": False}
    cgroup.limit.write_text("max\n")
    with pytest.raises(load_library("x11").UnknownError, match="can't be read"):
        told.watch.report()


def test_memory_is_short_from_90_percent_until_it_is_below_80(cgroup: Cgroup) -> None:
    told = Told(cgroup)
    for second, used in enumerate((890, 900, 950, 801, 799, 850)):
        cgroup.set(used)
        told.watch.look(10.0 * second)
    assert told.short == [{"used": 900, "limit": 1000}, None]


def test_memory_that_fills_fast_is_short_seconds_before_it_is_full(cgroup: Cgroup) -> None:
    """As with 100 MiB a second of 2 GiB: 5 % in each second."""
    told, full_at = Told(cgroup), 30
    for half in range(full_at):
        cgroup.set(250 + 25 * half)
        told.watch.look(half / 2)
        if told.short:
            break
    assert (full_at - half) / 2 >= 4, "seconds that are left"
    cgroup.set(760)
    for later in range(6):
        told.watch.look(half / 2 + later / 2)
    assert told.short[1:] == [None], "it has stopped growing"


def test_slow_growth_is_not_short_before_90_percent(cgroup: Cgroup) -> None:
    told = Told(cgroup)
    for second in range(19):
        cgroup.set(700 + 10 * second)
        told.watch.look(float(second))
    assert told.short == []


def test_each_kill_is_said_once(cgroup: Cgroup) -> None:
    cgroup.set(500, kills=2)
    told = Told(cgroup)
    assert told.watch.kill_seconds() is None, "what came before this process has been said"
    for kills in (2, 3, 3, 5):
        cgroup.set(500, kills)
        told.watch.look(time.monotonic())
    assert told.kills == 2
    assert 0 <= told.watch.kill_seconds() < 60


def test_person_is_told_in_the_desktop(screen: Screen) -> None:
    memory = agent_module("memory_notices")
    memory.notify_short(screen.notices, {"used": 95, "limit": 100})
    memory.notify_kill(screen.notices)
    memory.notify_short(screen.notices, None)
    short, killed, withdrawn = screen.lines
    assert ("95 % of" in short, "open the menu" in short) == (True, True)
    assert "a program was ended" in killed.lower()
    assert "CloseNotification" in withdrawn


def test_notification_daemon_that_lies_ends_no_watch(
    screen: Screen, capfd: pytest.CaptureFixture[str]
) -> None:
    screen.number = "seven"
    agent_module("memory_notices").notify_kill(screen.notices)
    assert "could not be shown: notify-send wrote 'seven'" in capfd.readouterr().err
