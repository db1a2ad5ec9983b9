"""prove-graphics: what draws OpenGL for each kind of GPU, driver and container, and the reason
where it is software.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unit.images.image_scripts import LIBRARY, load_script


@pytest.fixture(scope="module")
def graphics() -> ModuleType:
    """prove-graphics as a module."""
    return load_script("prove-graphics")


@pytest.fixture
def nothing(graphics: ModuleType) -> Any:
    """A container without a GPU."""
    return graphics.Facts(
        nvidia=False,
        capabilities="all",
        driver_error="",
        render_nodes=(),
        devices=(),
        allow_cpu=False,
    )


def untried() -> None:
    """A trial that must not be made."""
    pytest.fail("there is nothing to draw on")


def test_files_of_the_home_are_no_modules_of_a_trial(
    graphics: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    assert graphics.run([sys.executable, "-c", "import json; print(json.__name__)"], {}) == (
        "json",
        "",
    )


WORKS, NO_WINDOW = "zink Vulkan 1.4(NVIDIA L4)", "GLX offers no visual"


@pytest.mark.parametrize(
    ("nvidia", "vulkan", "zink", "own", "decision"),
    [
        (True, True, (WORKS, ""), None, ("Zink", WORKS, "", "")),
        (
            True,
            True,
            ("", "no response"),
            ("NVIDIA L4/PCIe", ""),
            ("Native", "NVIDIA L4/PCIe", "", ""),
        ),
        (True, False, None, ("NVIDIA L4/PCIe", ""), ("Native", "NVIDIA L4/PCIe", "", "")),
        (
            True,
            True,
            ("llvmpipe", ""),
            ("", NO_WINDOW),
            (
                "Software",
                "",
                "ZinkFailed",
                (
                    "Zink does not draw on L4: it drew with llvmpipe; nor does NVIDIA's own"
                    f" OpenGL: {NO_WINDOW}"
                ),
            ),
        ),
        (
            False,
            True,
            ("", "no window"),
            None,
            ("Software", "", "ZinkFailed", "Zink does not draw on L4: no window"),
        ),
    ],
    ids=["zink", "an H200 without /dev/dri", "no vulkan", "neither", "another vendor"],
)
def test_the_first_driver_that_draws_a_window_is_used(
    graphics: ModuleType,
    nothing: Any,
    nvidia: bool,
    vulkan: bool,
    zink: tuple[str, str] | None,
    own: tuple[str, str] | None,
    decision: tuple[str, str, str, str],
) -> None:
    devices = (graphics.VulkanDevice("L4", is_cpu=False),) if vulkan else ()
    trials = [
        (lambda trial=trial: graphics.Trial(*trial)) if trial else untried for trial in (zink, own)
    ]
    found = graphics.decide(replace(nothing, nvidia=nvidia, devices=devices), *trials)
    assert (found.renderer, found.device, found.reason, found.message) == decision


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
    graphics: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    trial: tuple[str, str],
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
            {
                "nvidia": True,
                "capabilities": "graphics,video",
                "driver_error": "libGLX_nvidia.so.0: wrong ELF class",
            },
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
        replace(nothing, **facts),
        untried,
        lambda: graphics.Trial("", "GLX makes no context for a window"),
    )

    assert (decision.renderer, decision.reason) == ("Software", reason) and said in decision.message


def test_devices_are_found_by_their_files(graphics: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri/renderD128").touch()
    assert graphics.collect({}, tmp_path).nvidia is False
    (tmp_path / "nvidia3").touch()

    facts = graphics.collect(
        {"NVIDIA_DRIVER_CAPABILITIES": "all", "LIBGL_ALWAYS_SOFTWARE": "1"}, tmp_path
    )

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
        (
            "zink Vulkan 1.4(L4)\ttrue",
            "false",
            ("", "its picture does not reach a window of the X server"),
        ),
        (
            "zink Vulkan 1.4(L4)\tfalse",
            "true",
            ("", "its picture does not reach a window of the X server"),
        ),
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


def test_the_decision_is_a_file_and_a_line(tmp_path: Path) -> None:
    env = {**os.environ, "VK_DRIVER_FILES": str(tmp_path / "none.json")}
    done = subprocess.run(
        [sys.executable, "-B", str(LIBRARY / "prove-graphics"), str(tmp_path / "graphics")],
        env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    decision = json.loads((tmp_path / "graphics").read_text())
    assert decision.keys() == {"display", "renderer", "device", "reason", "message"}
    assert decision["display"] == "X11"
    assert (
        done.stdout == f"software: {decision['message']}\n"
        and not (tmp_path / "graphics.part").exists()
    )
