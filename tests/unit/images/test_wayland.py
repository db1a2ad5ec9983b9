"""The desktop on Wayland: which display is chosen for each answer of Selkies' probe, what draws,
and what each part is given.
"""

import json
import os
import shlex
import socket
import socketserver
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from unit.devcluster.binaries_servers import script
from unit.images.image_scripts import LIBRARY, load_library, load_script
from unit.images.test_picture import prove


@pytest.fixture
def display() -> Any:
    return load_library("display")


def lines(**facts: str) -> str:
    empty = dict.fromkeys(
        ("RENDER_NODE", "DRIVER", "GL_VENDOR", "EGL_X11", "MESA_DRIVER", "VULKAN_PRESENTS"), ""
    )
    found = empty | {"PRESENT": "false", "ACCELERATED": "false"} | facts
    return "".join(f"SELKIES_GPU_{name}={value}\n" for name, value in found.items())


NONE = (lines(), "GPU: none here", 0)
INTEL = (
    lines(
        DRIVER="xe",
        PRESENT="true",
        ACCELERATED="true",
        GL_VENDOR="mesa",
        EGL_X11="mesa",
        MESA_DRIVER="native",
    ),
    "GPU: Mesa Intel(R) Arc(tm) Graphics on /dev/dri/renderD128",
    0,
)
L4 = "GPU: NVIDIA L4/PCIe/SSE2 on /dev/dri/renderD128"
NVIDIA = (
    lines(
        DRIVER="nvidia", PRESENT="true", ACCELERATED="true", GL_VENDOR="nvidia", MESA_DRIVER="zink"
    ),
    L4,
    0,
)
NO_CLIENTS = (lines(DRIVER="nvidia", PRESENT="true", ACCELERATED="true"), L4, 0)
UNUSABLE = (lines(DRIVER="nvidia", PRESENT="true"), "GPU: nvidia, unusable: No render node", 0)
BROKEN = ("", "Traceback\npixelflux: the driver refuses to answer", 1)
# As an older release answers.
OTHER = ("SELKIES_GPU_BACKEND=wayland\n", "GPU: some", 0)


def probe_program(tmp_path: Path, answer: tuple[str, str, int]) -> str:
    """A stand-in for selkies-gpu-probe."""
    output, said, status = map(shlex.quote, map(str, answer))
    return str(
        script(
            tmp_path / "selkies-gpu-probe",
            f"printf %s {output}; printf %s {said} >&2; exit {status}",
        )
    )


@pytest.mark.parametrize(
    ("value", "requested"),
    [
        ("", "X11"),
        ("false", "X11"),
        ("0", "X11"),
        ("true", "Wayland"),
        ("True|locked", "Wayland"),
        ("1", "Wayland"),
        ("auto", "Auto"),
        ("wayland", None),
    ],
)
def test_the_display_variable_is_read_as_selkies_reads_it(
    display: Any, value: str, requested: str | None
) -> None:
    assert display.requested_display(value) == requested


@pytest.mark.parametrize(
    ("answer", "chosen", "reason"),
    [
        (NONE, "X11", "auto: the pod has no GPU"),
        (
            INTEL,
            "Wayland",
            (
                "auto: Mesa drives the GPU itself (Mesa Intel(R) Arc(tm) Graphics on"
                " /dev/dri/renderD128)"
            ),
        ),
        (
            NVIDIA,
            "X11",
            "auto: Mesa does not drive the GPU itself (NVIDIA L4/PCIe/SSE2 on /dev/dri/renderD128)",
        ),
        (
            UNUSABLE,
            "X11",
            "auto: Selkies' compositor does not draw on the GPU (nvidia, unusable: No render node)",
        ),
        (
            BROKEN,
            "X11",
            "auto: selkies-gpu-probe ended with status 1: pixelflux: the driver refuses to answer",
        ),
        (
            OTHER,
            "X11",
            (
                "auto: this release of selkies-gpu-probe does not say whether the compositor draws"
                " on a GPU"
            ),
        ),
    ],
)
def test_auto_takes_wayland_where_mesa_drives_the_gpu(
    display: Any, tmp_path: Path, answer: tuple[str, str, int], chosen: str, reason: str
) -> None:
    program = probe_program(tmp_path, answer)

    assert display.choose_display(
        "Auto", lambda: display.ask_probe(tmp_path / "kept", program)
    ) == (chosen, reason)


def test_a_probe_that_is_not_there_or_hangs_is_an_answer_too(
    display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not start" in display.ask_probe(tmp_path / "a", str(tmp_path / "none")).error

    monkeypatch.setattr(display, "PROBE_SECONDS", 0.2)
    hangs = script(tmp_path / "hangs", "exec sleep 60")
    assert (
        display.ask_probe(tmp_path / "b", str(hangs)).error
        == "selkies-gpu-probe gave no answer in 0 s"
    )


def test_the_probe_runs_once_and_only_for_auto(display: Any, tmp_path: Path) -> None:
    program = probe_program(tmp_path, INTEL)
    first = display.ask_probe(tmp_path / "kept", program)
    Path(program).unlink()

    assert display.ask_probe(tmp_path / "kept", program) == first and first.mesa == "native"
    for requested in ("X11", "Wayland"):
        assert display.choose_display(requested, lambda: pytest.fail("asked")) == (
            requested,
            "as set",
        )


def test_a_display_that_does_not_exist_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"SELKIES_WAYLAND='mir' is not allowed\. Allowed are false"
    ):
        load_library("launcher.environment").decide_display("mir", tmp_path)


@pytest.mark.parametrize(
    ("answer", "facts", "reason", "said"),
    [
        (NONE, {}, "NoGPU", "the pod has no GPU"),
        (INTEL, {}, "", ""),
        (NVIDIA, {"nvidia": True}, "", ""),
        (
            NO_CLIENTS,
            {"nvidia": True},
            "DriverNotLoadable",
            "no OpenGL driver for applications loads on NV",
        ),
        (
            UNUSABLE,
            {"nvidia": True, "capabilities": "compute,video"},
            "GraphicsCapabilityMissing",
            "NVIDIA_DRIVER_CAPABILITIES='compute,video' lacks graphics",
        ),
        (
            UNUSABLE,
            {"nvidia": True, "driver_error": "no such file"},
            "DriverNotLoadable",
            "NVIDIA's driver cannot be loaded: no such file",
        ),
        (UNUSABLE, {"nvidia": True}, "CompositorInSoftware", "nvidia, unusable: No render node"),
        (
            NONE,
            {"render_nodes": ("/dev/dri/renderD128",)},
            "CompositorInSoftware",
            "/dev/dri/renderD128",
        ),
        (BROKEN, {}, "ProbeFailed", "ended with status 1"),
    ],
)
def test_on_wayland_the_probe_says_who_draws(
    display: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[str, str, int],
    facts: dict[str, Any],
    reason: str,
    said: str,
) -> None:
    graphics = load_script("prove-graphics")
    nothing = {
        "nvidia": False,
        "capabilities": "all",
        "driver_error": "",
        "render_nodes": (),
        "devices": (),
    }
    found = graphics.Facts(**(nothing | {"allow_cpu": False} | facts))

    decision = graphics.decide_on_wayland(
        found, display.ask_probe(tmp_path / "kept", probe_program(tmp_path, answer))
    )

    assert (decision.renderer, decision.reason) == ("Software" if reason else "Native", reason)
    assert said in decision.message
    if not reason:
        assert decision.device == answer[1].removeprefix("GPU: ")


def test_the_decision_on_wayland_names_the_display(tmp_path: Path) -> None:
    (tmp_path / "gpu-probe").write_text(
        json.dumps({"present": True, "accelerated": True, "gl_vendor": "mesa"})
    )
    done = subprocess.run(
        [sys.executable, "-B", str(LIBRARY / "prove-graphics"), str(tmp_path / "graphics")],
        env={**os.environ, "WAYLAND_DISPLAY": "wayland-1"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    decision = json.loads((tmp_path / "graphics").read_text())
    assert (decision["display"], decision["renderer"]) == (
        "Wayland",
        "Native",
    ) and done.stdout == "Native ()\n"


WHOLE: list[str] = []
ALONE = ["firefox-esr"]


def desktop_of(runtime: Path, app: list[str], value: str = "true") -> Any:
    given = {"SELKIES_WAYLAND": value, "SELKIES_MODE": "websockets"}
    return load_library("launcher.desktop").Desktop(given, app=app, runtime=runtime)


def test_one_application_needs_no_labwc_and_a_desktop_does(tmp_path: Path) -> None:
    alone, whole = desktop_of(tmp_path, ALONE), desktop_of(tmp_path, WHOLE)

    assert alone.drawing == ["application"] and whole.drawing == ["xfdesktop", "xfce4-panel"]
    for desktop in (alone, whole):
        applications = desktop.environments.applications
        assert applications["WAYLAND_DISPLAY"] == "wayland-1"
        assert applications["XDG_SESSION_TYPE"] == "wayland"
        assert not {"DISPLAY", "XAUTHORITY"} & desktop.environments.stream.keys()
    environments = whole.environments
    assert environments.of("xfdesktop")["GDK_BACKEND"] == "x11"
    environments.applications |= {"WAYLAND_DISPLAY": "wayland-2", "DISPLAY": ":3"}
    found = environments.of("vdi-agent")
    assert (found["WAYLAND_DISPLAY"], found["DISPLAY"]) == (
        "wayland-2",
        ":3",
    ), "labwc's, as applications have"
    assert "GDK_BACKEND" not in environments.of("xfce4-panel")
    assert "labwc" in load_library("launcher.desktop").VITAL


def test_on_x11_nothing_of_wayland_is_set(tmp_path: Path) -> None:
    for value in ("", "false"):
        environments = desktop_of(tmp_path, WHOLE, value).environments
        assert "WAYLAND_DISPLAY" not in environments.stream
        assert environments.applications["XDG_SESSION_TYPE"] == "x11"
        folders = [environments.of(name)["XDG_RUNTIME_DIR"] for name in ("picture", "selkies")]
        assert folders[0] == folders[1]
        assert "GDK_BACKEND" not in environments.of("xfdesktop")


def test_the_picture_proof_has_a_runtime_folder_of_its_own(tmp_path: Path) -> None:
    env = desktop_of(tmp_path, WHOLE).environments.of("picture")

    assert env["XDG_RUNTIME_DIR"] == str(tmp_path / "picture.run")
    assert env["WAYLAND_DISPLAY"] == str(tmp_path / "wayland-1")


CAPTURE = """
import os

class CaptureSettings:
    pass

class ScreenCapture:
    capacities = {capacities}
    def start_capture(self, take, settings):
        assert settings.use_wayland is {wayland}, settings.use_wayland
        assert getattr(settings, "wayland_host_display", None) == {host!r}
        assert not settings.use_wayland or os.path.exists({answered!r}), "the compositor has not answered"
        take(b"x" * len(self.capacities))
    def output_capacity(self):
        return self.capacities.pop(0)
    def stop_capture(self):
        pass
    def stream_info(self):
        return {{"codec": "h264", "encoder": "x264", "capture": "readback"}}
"""


def prove_picture(
    tmp_path: Path, host: Path | None, seconds: str = "20", capacities: str = "[1]"
) -> tuple[int, str]:
    """Run it beside that compositor: status and last line."""
    text = CAPTURE.format(
        wayland=host is not None,
        host=str(host) if host else None,
        answered=str(tmp_path / "answered"),
        capacities=capacities,
    )
    status, said, _ = prove(
        tmp_path, text, seconds, **({"WAYLAND_DISPLAY": str(host)} if host else {})
    )
    return status, said


@pytest.fixture
def compositor(tmp_path: Path) -> Iterator[Path]:
    """A socket whose server handles each request, and notes it before it answers."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(12) == struct.pack("=IHHI", 1, 0, 12, 2):
                (tmp_path / "answered").touch()
                self.request.sendall(struct.pack("=IHHI", 2, 0, 12, 0))

    path = tmp_path / "wayland-1"
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_the_proof_on_x11_asks_no_compositor(tmp_path: Path) -> None:
    assert prove_picture(tmp_path, None) == (
        0,
        "h264 by x264 in software, captured by readback, 1 bytes",
    )


def test_a_picture_that_cannot_be_noted_again_counts(tmp_path: Path) -> None:
    (tmp_path / "picture.part").mkdir()  # as on a full disk, nothing can be written there
    assert prove_picture(tmp_path, None)[0] == 1, "the first has to be there for others to read"
    (tmp_path / "picture").touch()
    assert prove_picture(tmp_path, None) == (
        0,
        "h264 by x264 in software, captured by readback, 1 bytes",
    )


def test_the_proof_captures_selkies_compositor_once_that_answers(
    tmp_path: Path, compositor: Path
) -> None:
    status, said = prove_picture(tmp_path, compositor)
    assert status == 0, said


def test_a_picture_of_an_empty_screen_of_its_own_proves_nothing(
    tmp_path: Path, compositor: Path
) -> None:
    """pixelflux has one, without an error, where it did not reach the compositor."""
    status, said = prove_picture(tmp_path, compositor, capacities="[-1, -1, 1]")
    assert (status, said) == (
        0,
        "h264 by x264 in software, captured by readback, 1 bytes",
    ), "the third one"


def test_a_silent_compositor_is_late_and_a_gone_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "wayland-1"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        late = prove_picture(tmp_path, path, seconds="0.1")
    assert late == (3, "the compositor accepts connections and does not answer")

    status, said = prove_picture(tmp_path, path)
    assert status == 1 and "the compositor cannot be reached" in said
