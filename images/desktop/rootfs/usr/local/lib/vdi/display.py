"""Whether a desktop is drawn on X11 or Wayland, and why. Selkies' own probe of the GPU is the judge
for `auto`.

SELKIES_WAYLAND   false or unset: X11    true: Wayland    auto: Wayland where Mesa drives the pod's GPU itself
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

X11, WAYLAND, AUTO = "X11", "Wayland", "Auto"
ZINK = {"MESA_LOADER_DRIVER_OVERRIDE": "zink", "GALLIUM_DRIVER": "zink", "LIBGL_KOPPER_DRI2": "1"}
"""Environment of a program that draws with Mesa's Zink."""
NVIDIA_GLX = {"__GLX_VENDOR_LIBRARY_NAME": "nvidia"}
"""Environment of a program that draws with NVIDIA's own OpenGL, through GLX."""
PROBE = "/opt/selkies/bin/selkies-gpu-probe"
PROBE_SECONDS = 25.0
_VALUES = {"": X11, "false": X11, "0": X11, "true": WAYLAND, "1": WAYLAND, "auto": AUTO}


class GpuProbe(NamedTuple):
    """What `selkies-gpu-probe` answered."""

    present: bool = False
    """There is a GPU."""
    accelerated: bool = False
    """Selkies' compositor draws on it."""
    gl_vendor: str = ""
    """Whose OpenGL an application on Wayland can draw on it with: mesa, nvidia; empty for none."""
    mesa: str = ""
    """How Mesa reaches it: native, zink; empty for not at all."""
    summary: str = ""
    """The probe's own sentence."""
    error: str = ""
    """Why there is no answer."""


def requested_display(value: str) -> str | None:
    """What SELKIES_WAYLAND asks for, with or without Selkies' `|locked`; None for a value that
    means nothing.
    """
    return _VALUES.get(value.partition("|")[0].strip().lower())


def choose_display(requested: str, ask: Callable[[], GpuProbe]) -> tuple[str, str]:
    """X11 or Wayland, and the reason. `ask` is called for Auto alone."""
    if requested != AUTO:
        return requested, "as set"
    probe = ask()
    if probe.error:
        return X11, f"auto: {probe.error}"
    if probe.accelerated and probe.mesa == "native":
        return WAYLAND, f"auto: Mesa drives the GPU itself ({probe.summary})"
    if probe.accelerated:
        return X11, f"auto: Mesa does not drive the GPU itself ({probe.summary})"
    if probe.present:
        return X11, f"auto: Selkies' compositor does not draw on the GPU ({probe.summary})"
    return X11, "auto: the pod has no GPU"


def ask_probe(file: Path, program: str = PROBE) -> GpuProbe:
    """Ask Selkies' probe. Its answer is kept in `file`: it starts renderers, and is asked once."""
    if file.exists():
        return GpuProbe(**json.loads(file.read_text()))
    probe = _run_probe(program)
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(probe._asdict()) + "\n")
    part.rename(file)
    return probe


def _run_probe(program: str) -> GpuProbe:
    try:
        # In the home, Python would import the user's files in place of its own.
        done = subprocess.run(
            [program], cwd="/", capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return GpuProbe(error=f"selkies-gpu-probe gave no answer in {PROBE_SECONDS:.0f} s")
    except OSError as error:
        return GpuProbe(error=f"selkies-gpu-probe does not start: {error}")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        return GpuProbe(
            error=(
                f"selkies-gpu-probe ended with status {done.returncode}:"
                f" {lines[-1] if lines else ''}"
            )
        )
    facts = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if "SELKIES_GPU_ACCELERATED" not in facts:
        return GpuProbe(
            error=(
                "this release of selkies-gpu-probe does not say whether the compositor draws on"
                " a GPU"
            )
        )
    summary = ""
    for line in lines:
        if line.startswith("GPU:"):
            summary = line.removeprefix("GPU:").strip()
    return GpuProbe(
        present=facts.get("SELKIES_GPU_PRESENT") == "true",
        accelerated=facts["SELKIES_GPU_ACCELERATED"] == "true",
        gl_vendor=facts.get("SELKIES_GPU_GL_VENDOR", ""),
        mesa=facts.get("SELKIES_GPU_MESA_DRIVER", ""),
        summary=summary,
    )
