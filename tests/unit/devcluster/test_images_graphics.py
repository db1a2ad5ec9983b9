"""prove-graphics: what draws OpenGL for each kind of GPU, driver and container, and the reason where it is software."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from unit.devcluster.image_scripts import load_script

SCRIPT = Path(__file__).parents[3] / "images/desktop/rootfs/usr/local/lib/vdi/prove-graphics"


@pytest.fixture(scope="module")
def graphics() -> ModuleType:
    """prove-graphics as a module."""
    return load_script(SCRIPT)


@pytest.fixture
def nothing(graphics: ModuleType) -> Any:
    """A container without a GPU."""
    return graphics.Facts(
        nvidia=False, capabilities="all", driver_error="", render_nodes=(), devices=(), allow_cpu=False
    )


def untried() -> None:
    """A trial that must not be made."""
    pytest.fail("there is nothing to draw on")


def test_files_of_the_home_are_no_modules_of_a_trial(
    graphics: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    assert graphics.run([sys.executable, "-c", "import json; print(json.__name__)"], {}) == ("json", "")


def test_zink_draws_where_it_draws_a_window_on_a_gpu(graphics: ModuleType, nothing: Any) -> None:
    name = "zink Vulkan 1.4(NVIDIA L4 (NVIDIA_PROPRIETARY))"
    facts = replace(nothing, nvidia=True, devices=(graphics.VulkanDevice("NVIDIA L4", is_cpu=False),))

    decision = graphics.decide(facts, lambda: graphics.Trial(name), untried)

    assert vars(decision) == {"renderer": "Zink", "device": name, "reason": "", "message": ""}


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (("llvmpipe (LLVM 19)", ""), "Zink does not draw on NVIDIA L4: it drew with llvmpipe (LLVM 19)"),
        (("", "no response within 10 s"), "Zink does not draw on NVIDIA L4: no response within 10 s"),
    ],
)
def test_zink_that_does_not_draw_is_not_used(
    graphics: ModuleType, nothing: Any, trial: tuple[str, str], said: str
) -> None:
    facts = replace(nothing, nvidia=True, devices=(graphics.VulkanDevice("NVIDIA L4", is_cpu=False),))

    decision = graphics.decide(
        facts, lambda: graphics.Trial(*trial), lambda: graphics.Trial("", "GLX offers no visual")
    )

    said += "; nor does NVIDIA's own OpenGL: GLX offers no visual"
    assert (decision.renderer, decision.reason, decision.message) == ("Software", "ZinkFailed", said)


@pytest.mark.parametrize("vulkan", [True, False])
def test_nvidias_own_opengl_draws_where_zink_does_not(graphics: ModuleType, nothing: Any, vulkan: bool) -> None:
    """As on an H200 whose container has no /dev/dri."""
    devices = (graphics.VulkanDevice("NVIDIA H200", is_cpu=False),) if vulkan else ()
    facts = replace(nothing, nvidia=True, devices=devices)
    zink = graphics.Trial("", "its picture does not reach a window of the X server")

    decision = graphics.decide(facts, lambda: zink, lambda: graphics.Trial("NVIDIA H200/PCIe/SSE2"))

    assert vars(decision) == {"renderer": "Native", "device": "NVIDIA H200/PCIe/SSE2", "reason": "", "message": ""}


def test_a_gpu_of_another_vendor_is_not_drawn_on_with_nvidias_driver(graphics: ModuleType, nothing: Any) -> None:
    facts = replace(nothing, devices=(graphics.VulkanDevice("Intel", is_cpu=False),))

    assert graphics.decide(facts, lambda: graphics.Trial("", "no window"), untried).reason == "ZinkFailed"


@pytest.mark.parametrize(
    ("program", "trial"),
    [
        (r"print('NVIDIA Corporation\tNVIDIA H200/PCIe/SSE2')", ("NVIDIA H200/PCIe/SSE2", "")),
        (r"print('Mesa\tllvmpipe')", ("", "it drew with llvmpipe")),
        ("sys.exit('GLX offers no visual')", ("", "GLX offers no visual")),
        ("os.abort()", ("", "the probe ended with status -6")),
    ],
)
def test_nvidias_own_opengl_is_tried_by_drawing_a_window(
    graphics: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, trial: tuple[str, str]
) -> None:
    check = "import os, sys\nassert os.environ['__GLX_VENDOR_LIBRARY_NAME'] == 'nvidia'\n"
    (tmp_path / "draw-window").write_text(check + program + "\n")
    monkeypatch.setattr(graphics, "DRAW_WINDOW", tmp_path / "draw-window")

    assert graphics.draw_with_nvidia() == graphics.Trial(*trial)


@pytest.mark.parametrize(
    ("facts", "reason", "said"),
    [
        ({}, "NoGPU", "the pod has no GPU"),
        (
            {"nvidia": True, "capabilities": "compute,utility", "driver_error": "no such file"},
            "GraphicsCapabilityMissing",
            "NVIDIA_DRIVER_CAPABILITIES='compute,utility' lacks graphics",
        ),
        (
            {"nvidia": True, "capabilities": "graphics,video", "driver_error": "libGLX_nvidia.so.0: wrong ELF class"},
            "DriverNotLoadable",
            "NVIDIA's driver cannot be loaded: libGLX_nvidia.so.0: wrong ELF class",
        ),
        ({"nvidia": True}, "NoVulkanDevice", "offers no GPU"),
        (
            {"render_nodes": ("/dev/dri/renderD128",)},
            "NotSupported",
            "/dev/dri/renderD128 needs Wayland: set streaming.display: Auto",
        ),
    ],
)
def test_where_nothing_can_draw_on_a_gpu_the_reason_is_named(
    graphics: ModuleType, nothing: Any, facts: dict[str, Any], reason: str, said: str
) -> None:
    decision = graphics.decide(
        replace(nothing, **facts), untried, lambda: graphics.Trial("", "GLX makes no context for a window")
    )

    assert (decision.renderer, decision.reason) == ("Software", reason) and said in decision.message


def test_a_vulkan_driver_on_the_cpu_counts_only_where_mesa_may_use_it(graphics: ModuleType, nothing: Any) -> None:
    facts = replace(nothing, devices=(graphics.VulkanDevice("llvmpipe", is_cpu=True),))
    trial = graphics.Trial("zink Vulkan 1.4(llvmpipe)")

    assert graphics.decide(facts, lambda: trial, untried).reason == "NoGPU"
    assert graphics.decide(replace(facts, allow_cpu=True), lambda: trial, untried).renderer == "Zink"


def test_devices_are_found_by_their_files(graphics: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri/renderD128").touch()
    assert graphics.collect({}, tmp_path).nvidia is False
    (tmp_path / "nvidia3").touch()

    facts = graphics.collect({"NVIDIA_DRIVER_CAPABILITIES": "all", "LIBGL_ALWAYS_SOFTWARE": "1"}, tmp_path)

    assert (facts.nvidia, facts.capabilities, facts.allow_cpu) == (True, "all", True)
    assert facts.render_nodes == (str(tmp_path / "dri/renderD128"),)
    assert graphics.NVIDIA_LIBRARY in facts.driver_error


HELPER = """
import os, sys
answer = {answers}[sys.argv[1]]
if answer is None:
    sys.exit("no EGL here")
if sys.argv[1] == "--window":
    assert os.environ["GALLIUM_DRIVER"] == "zink" and sys.argv[2:] == []
print(answer)
"""


@pytest.mark.parametrize(
    ("window", "swapchain", "trial"),
    [
        ("zink Vulkan 1.4(L4)\ttrue", "true", ("zink Vulkan 1.4(L4)", "")),
        ("zink Vulkan 1.4(llvmpipe)\ttrue", None, ("zink Vulkan 1.4(llvmpipe)", "")),
        ("zink Vulkan 1.4(L4)\ttrue", "false", ("", "its picture does not reach a window of the X server")),
        ("zink Vulkan 1.4(L4)\tfalse", "true", ("", "its picture does not reach a window of the X server")),
        (None, None, ("", "no EGL here")),
    ],
)
def test_zink_is_tried_with_the_helpers_of_selkies_gpu_probe(
    graphics: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: str | None,
    swapchain: str | None,
    trial: tuple[str, str],
) -> None:
    (tmp_path / "selkies").mkdir()
    answers = {"--window": window, "--vulkan-window": swapchain}
    (tmp_path / "selkies/gpu_probe.py").write_text(HELPER.format(answers=answers))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert graphics.draw_with_zink() == graphics.Trial(*trial)


@pytest.mark.parametrize(
    ("pixel", "status", "output"),
    [
        (bytes((204, 102, 51, 0)), 0, ("NVIDIA Corporation\tNVIDIA H200\n", "")),
        (bytes(4), 1, ("", "the picture of NVIDIA H200 does not reach a window of the X server\n")),
    ],
)
def test_a_driver_that_draws_counts_only_if_its_color_is_on_the_screen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pixel: bytes,
    status: int,
    output: tuple[str, str],
) -> None:
    window = load_script(SCRIPT.with_name("draw-window"))
    for variable in ("DISPLAY", "XAUTHORITY"):
        monkeypatch.setenv(variable, "nowhere")
    monkeypatch.setattr(window, "SECONDS", 0)
    monkeypatch.setattr(window, "draw", lambda: ("NVIDIA Corporation", "NVIDIA H200"))
    monkeypatch.setattr(window, "connect", lambda *_: (nullcontext(), SimpleNamespace(root=1)))
    monkeypatch.setattr(window, "read_pixels", lambda *_: pixel)

    assert window.main() == status
    assert capsys.readouterr() == output


def test_the_decision_is_a_file_and_a_line(tmp_path: Path) -> None:
    env = {**os.environ, "VK_DRIVER_FILES": str(tmp_path / "none.json")}
    done = subprocess.run(
        [sys.executable, "-B", str(SCRIPT), str(tmp_path / "graphics")],
        env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    decision = json.loads((tmp_path / "graphics").read_text())
    assert decision.keys() == {"display", "renderer", "device", "reason", "message"}
    assert decision["display"] == "X11"
    assert done.stdout == f"software: {decision['message']}\n" and not (tmp_path / "graphics.part").exists()
