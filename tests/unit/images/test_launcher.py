"""The desktop container's first process: what it refuses, what it warns of, and how it fills an
empty home.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.builders import a_session, a_template
from unit.images.image_scripts import LIBRARY, load_library
from vdi.api.streaming import ENCODER_ALIASES, ENCODERS
from vdi.session.children import build_pod
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Desktop, resolve
from vdi.session.naming import Identity
from vdi.session.template_image import OBSOLETE_ENCODERS

Judge = Callable[[list[tuple[int, str]]], None]
Decide = Callable[[int, str], tuple[Any, dict[str, str]]]


def launcher(module: str) -> Any:
    return load_library(f"launcher.{module}")


def desktop_of(given: dict[str, str], **options: Any) -> Any:
    return launcher("desktop").Desktop(given, **options)


def stream_environment(given: dict[str, str]) -> dict[str, str]:
    env: dict[str, str] = launcher("stream_settings").stream_environment(given)
    return env


def test_a_desktop_without_a_password_is_refused_in_words() -> None:
    with pytest.raises(SystemExit, match="SELKIES_BASIC_AUTH_PASSWORD is not set"):
        launcher("tokens").take_secrets({})


def test_each_container_has_an_agent_token_of_its_own() -> None:
    env = {"VDI_MASTER_TOKEN_SHA256": "d", "VDI_AGENT_TOKEN_SHA256": "e"}
    first, second = launcher("tokens").take_secrets(env), launcher("tokens").take_secrets(env)

    assert list(first) == [
        "SELKIES_MASTER_TOKEN",
        "SELKIES_AUDIT_WEBHOOK_TOKEN",
        "SELKIES_COMPUTER_USE_TOKEN",
    ]
    assert len(first["SELKIES_MASTER_TOKEN"]) >= 32
    assert first != second
    assert env == {"VDI_MASTER_TOKEN_SHA256": "d", "VDI_AGENT_TOKEN_SHA256": "e"}


def test_selkies_listens_for_agents_only_where_the_template_says_so() -> None:
    assert "SELKIES_COMPUTER_USE_BIND" not in stream_environment({"VDI_AGENT_TOKEN_SHA256": "e"})
    assert (
        stream_environment({"VDI_AGENTS": "enabled"})["SELKIES_COMPUTER_USE_BIND"]
        == "127.0.0.1:9500"
    )


def test_tokens_of_an_older_operator_are_kept_as_digests_alone() -> None:
    env = {
        "SELKIES_MASTER_TOKEN": "m",
        "VDI_AGENT_TOKEN": "t",
        "SELKIES_BASIC_AUTH_PASSWORD": "p",
        "LANG": "C",
    }
    hidden = launcher("tokens").take_secrets(env)

    digests = {
        name: sha256(token).hexdigest() for name, token in (("MASTER", b"m"), ("AGENT", b"t"))
    }
    assert env == {"LANG": "C"} | {
        f"VDI_{name}_TOKEN_SHA256": digest for name, digest in digests.items()
    }
    assert hidden["SELKIES_BASIC_AUTH_PASSWORD"] == "p" and "m" not in hidden.values()


@pytest.mark.parametrize(
    ("events", "status", "message"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", -9, "OutOfMemory: Xvfb was killed"),
        ("low 0\noom 1\noom_kill 1\n", -9, "OutOfMemory: Xvfb was killed"),
        ("low 0\noom 1\noom_kill 1\n", 1, None),
        ("oom_kill 0\n", -9, None),
    ],
)
def test_a_lack_of_memory_is_the_termination_message(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    events: str,
    status: int,
    message: str | None,
) -> None:
    ending = launcher("ending")
    monkeypatch.setattr(ending, "TERMINATION_LOG", tmp_path / "message")
    (tmp_path / "memory.events").write_text(events)
    monkeypatch.setattr(ending, "read_kills", partial(ending.read_kills, tmp_path))

    with pytest.raises(SystemExit, match="used all of its memory" if message else "it was ended"):
        ending.end_with("Xvfb", status, "it was ended")
    assert (tmp_path / "message").exists() is bool(message)
    assert not message or (tmp_path / "message").read_text().startswith(message)


_TELL = """
import ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
from handed_files import RECORDINGS_FD, INPUT_FD, inherited
from process_secrets import forbid_inspection, inherited_sockets, read_secrets
forbid_inspection()
found = read_secrets()
held = inherited_sockets()
files = [inherited(INPUT_FD), inherited(RECORDINGS_FD)]
print(json.dumps({
    "secrets": found, "port": held[0].getsockname()[1], "inheritable": held[0].get_inheritable(),
    "files": [(os.readlink(f"/proc/self/fd/{file}").split(":")[0], os.get_inheritable(file)) for file in files],
    "environment": dict(os.environ), "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
}))
"""


def test_secrets_come_by_pipe_and_the_launcher_keeps_the_ports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env = {
        "SELKIES_PORT": "0",
        "SELKIES_ADDR": "127.0.0.1",
        "VDI_AGENT_PORT": "0",
        "VDI_AGENT_TOKEN_SHA256": "x",
    }
    desktop = desktop_of(env, hidden={"SELKIES_MASTER_TOKEN": "hidden"})
    desktop.handover.hold_ports(env)
    sockets = desktop.handover.sockets
    for held in itertools.chain(*sockets.values()):
        with socket.socket(held.family) as taker, pytest.raises(OSError, match="in use"):
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.bind(
                ("::" if held.family == socket.AF_INET6 else "127.0.0.1", held.getsockname()[1])
            )
    (held,) = sockets["selkies"]
    with contextlib.ExitStack() as held_until_here:
        for one in itertools.chain(*sockets.values()):
            held_until_here.enter_context(one)
        command = [sys.executable, "-B", "-c", _TELL, str(LIBRARY)]
        desktop.processes.start("selkies", command, stdout=subprocess.PIPE)
        output, _ = desktop.processes.running["selkies"].communicate(timeout=20)
        seen = json.loads(output)

        assert (
            seen["secrets"] == {"SELKIES_MASTER_TOKEN": "hidden"}
            and "hidden" not in seen["environment"].values()
        )
        assert seen["port"] == held.getsockname()[1] and seen["inheritable"] is False
        assert seen["dumpable"] == 0
        assert seen["files"] == [
            ["/memfd", False],
            ["socket", False],
        ], "what has no name no program can replace"
        taker = socket.socket()
        # Selkies is gone now, and its port is still held.
        with (
            taker,
            pytest.raises(OSError, match="in use"),
        ):
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.bind(held.getsockname())


@pytest.mark.platform
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_launcher_holds_its_ports_in_both_families() -> None:
    """A program that had the other family's port would get the requests, and the tokens in them,
    that come there.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    handover = launcher("handover").Handover({})
    handover.hold_ports({"SELKIES_PORT": str(port)})
    families = [held.family for held in handover.sockets["selkies"]]
    assert families == [socket.AF_INET, socket.AF_INET6]
    with contextlib.ExitStack() as stack:
        for held in handover.sockets["selkies"]:
            stack.enter_context(held)
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
            taker = stack.enter_context(socket.socket(family))
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                taker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with pytest.raises(OSError, match="in use"):
                taker.bind((address, port))


def test_an_address_that_the_pod_lacks_is_left_out() -> None:
    (held,) = load_library("process_secrets").bind_port("127.0.0.1,2001:db8::1", 0)
    with held:
        assert held.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError, match="assign"):
        load_library("process_secrets").bind_port("2001:db8::1", 0)


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(
            SystemExit, match=f"selkies can't listen on port {port} of 127.0.0.1: .*in use"
        ):
            launcher("handover").Handover({}).hold_ports(
                {"SELKIES_PORT": port, "SELKIES_ADDR": "127.0.0.1"}
            )


@pytest.mark.parametrize(
    ("header", "passes"),
    [("Bearer t", True), ("Bearer t ", True), ("Bearer x", False), ("Basic t", False), ("", False)],
)
def test_a_bearer_is_known_by_the_digest_of_its_token(header: str, passes: bool) -> None:
    is_bearer_of = load_library("process_secrets").is_bearer_of

    assert is_bearer_of(header, sha256(b"t").hexdigest()) is passes
    assert not is_bearer_of(header, "")


def test_dangerous_defaults_are_off_and_no_third_party_relays() -> None:
    env = stream_environment({})

    assert env["SELKIES_UI_SIDEBAR_SHOW_SHARING"] == "false"
    assert env["SELKIES_COMMAND_ENABLED"] == "false" and env["SELKIES_ENABLE_DUAL_MODE"] == "false"
    assert env["SELKIES_TURN_HOST"] == env["SELKIES_STUN_HOST"] == "localhost"


def test_only_changes_are_encoded_unless_the_pod_says_so() -> None:
    name = "SELKIES_VIDEO_STREAMING_MODE"
    assert (
        stream_environment({})[name],
        stream_environment({name: "true"})[name],
    ) == ("false", "true")


def test_dropped_encoders_are_those_the_operator_warns_of() -> None:
    """Two lists, since the image has no `vdi` package."""
    dropped = launcher("stream_settings").SELKIES_1_ENCODERS
    assert dropped >= OBSOLETE_ENCODERS
    assert not dropped & {*ENCODERS, *ENCODER_ALIASES}


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, False),
        ({"SELKIES_GAMEPAD_ENABLED": "false|locked"}, False),
        ({"SELKIES_GAMEPAD_ENABLED": "true"}, True),
        (
            {"SELKIES_GAMEPAD_ENABLED": "true", "SELKIES_INTERPOSER": "/usr/$LIB/interposer.so"},
            False,
        ),
    ],
)
def test_gamepads_that_no_application_would_see_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    warned: bool,
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    stream_environment(given)
    assert ("but no application" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("given", "kept", "warned"),
    [
        ("nvh264enc", "", True),
        ("vah264enc, jpeg", "jpeg", True),
        ("h264enc,jpeg", "h264enc,jpeg", False),
        ("openh264enc", "openh264enc", False),
        ("h265enc,vp8enc,vp9enc,av1enc", "h265enc,vp8enc,vp9enc,av1enc", False),
    ],
)
def test_encoders_of_selkies_1_are_left_out_and_named(
    capsys: pytest.CaptureFixture[str], given: str, kept: str, warned: bool
) -> None:
    assert stream_environment({"SELKIES_ENCODER": given})["SELKIES_ENCODER"] == kept
    assert ("was a name of Selkies 1" in capsys.readouterr().err) is warned


def test_a_folder_that_was_made_for_a_volume_is_filled_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skeleton, home = tmp_path / "skel", tmp_path / "home"
    for name in ("app/settings", "git/config"):
        (skeleton / ".config" / name).parent.mkdir(parents=True)
        (skeleton / ".config" / name).write_text("ours")
    (skeleton / "run.sh").write_text("ours")
    (skeleton / ".bashrc").write_text("ours")
    (skeleton / "run.sh").chmod(0o755)
    (home / ".config/git").mkdir(parents=True)
    (mounted := home / ".config/git/config").write_text("mounted")
    (skeleton / ".config/shared").mkdir()
    (skeleton / ".config/shared/one").write_text("ours")
    (folder := home / ".config/shared").mkdir()
    (home / ".bashrc").write_text("mine")
    (home / "Desktop").mkdir()
    (skeleton / "Desktop").mkdir()
    (skeleton / "Desktop/link").write_text("ours")
    monkeypatch.setattr("launcher.home.mount_points", lambda: {str(mounted), str(folder)})

    launcher("home").prepare_home(home, skeleton)

    assert (mounted.read_text(), (home / ".bashrc").read_text()) == ("mounted", "mine")
    assert not list(folder.iterdir()), "nothing is put into what is mounted"
    assert not list((home / "Desktop").iterdir()), "the user has emptied it"
    assert (home / ".config/app/settings").read_text() == "ours"
    assert os.access(home / "run.sh", os.X_OK)
    (home / ".config/app/settings").unlink()
    (home / ".config/own").write_text("the user's")
    launcher("home").prepare_home(home, skeleton)
    assert not (home / ".config/app/settings").exists(), "what the user has removed stays away"


def test_a_skeleton_that_was_cut_off_is_copied_again(tmp_path: Path) -> None:
    skeleton, home = tmp_path / "skel", tmp_path / "home"
    (skeleton / ".config").mkdir(parents=True)
    (skeleton / ".config/one").write_text("ours")
    (home / "..config.part").mkdir(parents=True)
    (home / "..config.part/rest").write_text("of the first try")

    launcher("home").prepare_home(home, skeleton)

    assert [path.name for path in home.rglob("*")] == [".config", "one"]


def test_a_try_at_a_picture_that_cannot_start_is_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desktop = desktop_of({}, runtime=tmp_path)
    desktop.clock.mark("Selkies serves")
    desktop.picture.next_try = 1.0

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desktop.processes, "start", refuse)
    desktop.look()

    assert "no try at a picture now: [Errno 28] No space left on device" in capsys.readouterr().err
    assert desktop.picture.next_try > time.monotonic()


def test_a_home_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"HOME={tmp_path / 'absent'} can't be written by uid"):
        launcher("home").prepare_home(tmp_path / "absent", tmp_path)


def test_applications_do_not_see_the_streams_secrets() -> None:
    env = {"SELKIES_TURN_PASSWORD": "x", "KUBERNETES_PORT": "y", "LANG": "C.UTF-8"}
    environments = desktop_of(env, hidden={"SELKIES_MASTER_TOKEN": "z"}).environments

    applications, stream = environments.applications, environments.stream
    assert "x" in stream.values()
    assert not {"x", "y", "z"} & set(applications.values())
    assert applications["LANG"] == "C.UTF-8"
    assert applications["XAUTHORITY"] == stream["XAUTHORITY"]


@pytest.mark.parametrize("text", ["firefox-esr", "[]", '{"a": 1}', '["sh", 1]', '[""]', '"sh"'])
def test_an_application_that_is_no_array_of_words_is_refused(text: str) -> None:
    with pytest.raises(
        SystemExit, match=r"VDI_APP=.* is not a JSON array of words\. Allowed is for example"
    ):
        launcher("applications").read_application(text)


def test_an_application_that_the_image_lacks_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="this image has no program 'no-such-program'"):
        launcher("applications").read_application('["no-such-program", "--x"]')


RULES = """! model
  pc105           Generic 105-key PC
! layout
  us              English (US)
  de              German
! variant
  nodeadkeys      de: German (no dead keys)
  intl            us: English (US, intl., with dead keys)
! option
  grp             Switching to another layout
"""


@pytest.mark.parametrize(
    ("layout", "variant", "words"),
    [
        ("", "", []),
        ("de", "", ["setxkbmap", "-layout", "de"]),
        ("de", "nodeadkeys", ["setxkbmap", "-layout", "de", "-variant", "nodeadkeys"]),
        ("us,de", ",nodeadkeys", ["setxkbmap", "-layout", "us,de", "-variant", ",nodeadkeys"]),
    ],
)
def test_a_keyboard_is_set_as_asked(layout: str, variant: str, words: list[str]) -> None:
    assert launcher("x11_screen").read_keyboard(layout, variant, RULES) == words


@pytest.mark.parametrize(
    ("layout", "variant", "said"),
    [
        ("xx", "", "VDI_KEYBOARD_LAYOUT='xx': XKB knows no layout 'xx'. Allowed are de, us"),
        ("pc105", "", "XKB knows no layout 'pc105'"),
        ("us", "nodeadkeys", "layout 'us' has no variant 'nodeadkeys'. Allowed are intl"),
        ("de", "nodeadkeys,intl", "names more variants than"),
        ("", "intl", "needs VDI_KEYBOARD_LAYOUT"),
    ],
)
def test_an_unknown_keyboard_is_refused_with_what_is_allowed(
    layout: str, variant: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        launcher("x11_screen").read_keyboard(layout, variant, RULES)


def test_the_largest_screen_is_a_size_within_limits() -> None:
    read_max_screen = launcher("x11_screen").read_max_screen
    assert read_max_screen("7680x4320") == "7680x4320"
    for bad in ("4k", "1024x768", "20000x2000", "1920x1080x24", "-1x5"):
        with pytest.raises(SystemExit, match=f"VDI_MAX_SCREEN='{bad}' is not WIDTHxHEIGHT"):
            read_max_screen(bad)


def test_a_display_of_another_container_is_left_alone() -> None:
    sockets = (
        "0000: 2 0 10000 1 1 77 @/tmp/.X11-unix/X0\n0000: 2 0 10000 1 1 78 /tmp/.X11-unix/X1\n"
    )

    free_display = launcher("x11_screen").free_display
    assert free_display(sockets) == ":2" and free_display("") == ":0"
    assert free_display("0000: 2 0 10000 1 1 77 @/tmp/.X11-unix/X01\n") == ":0"


@pytest.fixture
def judged(tmp_path: Path) -> Judge:
    """A desktop that gets these answers from its tries at a picture: (status, output)."""

    def judge(answers: list[tuple[int, str]]) -> None:
        desktop = desktop_of({}, runtime=tmp_path)
        for code, output in answers:
            (tmp_path / "picture.log").write_text(output)
            desktop.picture.ended(code)

    return judge


GOOD = (0, "h264 by x264 in software\n")
BAD = (1, "noise\nthe encoder's library can't be loaded: libva.so.2\n\n")


@pytest.mark.parametrize(
    "answer", [BAD, (3, "the encoder made nothing in 75 s\n"), (-11, "noise\n")]
)
def test_without_a_first_picture_the_desktop_ends_and_quotes_why(
    judged: Judge, answer: tuple[int, str]
) -> None:
    words = {
        1: "can't be loaded: libva.so.2",
        3: "made nothing in 75 s",
        -11: "ended by signal 11",
    }[answer[0]]

    with pytest.raises(SystemExit, match=f"no picture can be made: .*{words}"):
        judged([answer])


def test_three_later_failures_end_it_and_slowness_never_does(
    judged: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    judged([GOOD, BAD, BAD, GOOD, BAD, BAD, *[(3, "late")] * 9])
    assert capsys.readouterr().err.count("no picture now") == 13

    with pytest.raises(SystemExit, match="no picture can be made"):
        judged([GOOD, BAD, BAD, BAD])


@pytest.mark.parametrize("wayland", ["true", "false"])
def test_the_first_picture_has_the_time_of_the_probes(wayland: str) -> None:
    resolved = resolve(a_session(), a_template(), ClusterSettings())
    assert isinstance(resolved, Desktop)
    (container,) = build_pod(identity=Identity.of(a_session()), desktop=resolved)["spec"][
        "containers"
    ]
    liveness = container["livenessProbe"]
    killed = liveness["initialDelaySeconds"] + liveness["periodSeconds"] * (
        liveness["failureThreshold"] - 1
    )
    assert killed - 10 < launcher("clock").START_SECONDS < killed, (
        "just before: the log's last line is then the reason"
    )

    desktop = desktop_of({"SELKIES_WAYLAND": wayland})
    desktop.clock.zero = time.monotonic() - 30.0
    assert 40.0 <= desktop.picture.longest_try() <= 45.0
    desktop.clock.mark("first picture encoded")
    assert desktop.picture.longest_try() == launcher("picture").LATER_TRY_SECONDS


def test_a_late_part_is_named_at_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desktop = desktop_of({}, runtime=tmp_path)
    wait = partial(desktop.processes.wait_for, "labwc", tmp_path / "labwc", is_ready=Path.exists)
    with subprocess.Popen(["sleep", "60"]) as process:
        desktop.processes.running["labwc"] = process
        desktop.clock.zero = time.monotonic() - launcher("clock").START_SECONDS + 0.05
        with pytest.raises(SystemExit, match="labwc did not come up within 75 s"):
            wait()
        desktop.clock.zero = time.monotonic()
        desktop.stop()
        with pytest.raises(SystemExit) as ended:
            wait()
        process.kill()
    assert ended.value.code == 0
    assert "waiting for labwc" in capsys.readouterr().err


def test_what_is_drawn_starts_once_selkies_serves_and_not_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[str] = []
    desktop = desktop_of({}, runtime=tmp_path)
    monkeypatch.setattr(desktop.processes, "start", started.append)

    desktop.look()
    assert started == []

    (tmp_path / "selkies.accepts").touch()
    desktop.look()
    desktop.look()
    assert started == ["xfwm4", "xfdesktop", "xfce4-panel"]


@pytest.fixture
def decided(tmp_path: Path) -> Decide:
    """The desktop and the decision on disk, after prove-graphics has ended with that status."""

    def decide(code: int, renderer: str) -> tuple[Any, dict[str, str]]:
        given = {"GALLIUM_DRIVER": "zink", "DISPLAY": ":0"}  # a template may set it
        desktop = desktop_of(given, runtime=tmp_path)
        (tmp_path / "graphics.log").write_text("noise\nwhat it said\n")
        if code == 0:
            (tmp_path / "graphics").write_text(json.dumps({"renderer": renderer}))
        desktop.graphics.ended(code)
        return desktop, json.loads((tmp_path / "graphics").read_text())

    return decide


@pytest.mark.parametrize(("renderer", "variables"), [("Zink", "ZINK"), ("Native", "NVIDIA_GLX")])
def test_applications_draw_on_the_gpu_and_the_x_server_never(
    decided: Decide, renderer: str, variables: str
) -> None:
    desktop, _ = decided(0, renderer)

    environment = desktop.environments.of
    drawing = getattr(load_library("display"), variables)
    assert drawing.items() <= environment("xfce4-panel").items()
    assert not drawing.keys() & environment("Xvfb").keys()
    assert environment("Xvfb")["__EGL_VENDOR_LIBRARY_FILENAMES"] == launcher("environment").MESA_EGL
    assert "MESA_LOADER_DRIVER_OVERRIDE" not in environment("selkies")
    assert "__GLX_VENDOR_LIBRARY_NAME" not in environment("selkies")


def test_selkies_accepts_after_picture_and_graphics_decision(
    decided: Decide, tmp_path: Path
) -> None:
    desktop, _ = decided(0, "Software")
    desktop.look()
    assert not (tmp_path / "ready").exists()

    (tmp_path / "picture.log").write_text(GOOD[1])
    desktop.picture.ended(0)
    desktop.look()
    assert (tmp_path / "ready").exists()


@pytest.mark.parametrize(
    ("code", "said"), [(1, "ended with status 1; what it said"), (-9, "ended by signal 9")]
)
def test_a_failed_graphics_probe_leaves_software_and_says_why(
    decided: Decide, capsys: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    desktop, decision = decided(code, "")

    assert "MESA_LOADER_DRIVER_OVERRIDE" not in desktop.environments.of("xfce4-panel")
    assert (decision["renderer"], decision["reason"]) == (
        "Software",
        "ProbeFailed",
    ) and said in decision["message"]
    assert said in capsys.readouterr().err
