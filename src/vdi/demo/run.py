"""The demo: cluster, images, chart, one session and its picture, by the same commands that a user would type.

Called by `vdi demo` and by the end-to-end tests. Every part is idempotent: what is there already is left as it is.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdi.demo.browser import DesktopBrowser, find_chromium
from vdi.devcluster import binaries, cluster, images, packages, privileged
from vdi.devcluster.control_plane import CONTROL_PLANE_BINARIES
from vdi.devcluster.node import NODE_BINARIES
from vdi.devcluster.progress import Progress

RELEASE, RELEASE_NAMESPACE = "vdi", "kasm"
NAMESPACE = "vdi-sessions"
SESSION, USER, TEMPLATE = "first", "you@example.com", "small"
FAKE_GPUS = 8
"""What one GPU offers under time-slicing; the demo's node pretends to have it, so that GPU templates can be tried."""


class DemoError(Exception):
    """Raised when the demo cannot go on; says what to do."""


@dataclass(frozen=True)
class Demo:
    """A cluster with the operator installed."""

    kubeconfig: Path
    tools: Path
    """A folder with kubectl, helm and vdi."""


@dataclass(frozen=True)
class Desktop:
    """The demo's running session."""

    url: str
    user: str
    password: str


def checkout() -> Path:
    """The project's root: the demo needs the chart and the Containerfiles. Raises DemoError outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "charts" / "vdi" / "Chart.yaml").is_file():
        raise DemoError("the demo needs a checkout of the project (charts/ and images/), not an installed package")
    return root


def up(name: str, *, browser: bool, progress: Progress) -> Demo:
    """Bring up the cluster and install the operator through the chart; with `browser`, have one for pictures.

    Raises DemoError, ClusterError, StepFailed, BinaryUnavailable and what building an image raises.
    """
    with privileged.rights("The demo"):
        return _bring_up(name, checkout(), browser, progress)


def _bring_up(name: str, root: Path, browser: bool, progress: Progress) -> Demo:
    found, (operator_image, desktop_image) = _make_parts(browser, progress)
    made = cluster.up(
        name,
        fake_gpus=FAKE_GPUS,
        install_packages=True,
        image_archives=[operator_image, desktop_image],
        progress=progress,
    )
    demo = Demo(made.kubeconfig, _folder_of_tools(made.state_dir / "tools", found))
    chart: list[str | Path] = [
        found["helm"], "upgrade", "--install", RELEASE, root / "charts" / "vdi",
        "--namespace", RELEASE_NAMESPACE, "--create-namespace",
        "--wait", _roll_back_flag(found["helm"]), "--timeout", "10m", "--set", f"urlPort={made.websecure_port}",
        # The tag stays the same when the image was built anew: its archive's name has the digest of what it is made of.
        "--set-string", f"podAnnotations.image={operator_image.parent.name}",
    ]  # fmt: skip
    _install(chart, demo, progress=progress)
    return demo


def start_session(demo: Demo, *, progress: Progress) -> Desktop:
    """Start the demo's session, or find it running. Raises StepFailed with what the session says of itself."""
    create = ["session", "create", SESSION, "--user", USER, "--template", TEMPLATE, "--wait"]
    command: list[str | Path] = [sys.executable, "-m", "vdi", *create]
    if _kubectl(demo, "get", "vdi", SESSION, "--ignore-not-found", "-o", "name").strip():
        command = [demo.tools / "kubectl", "-n", NAMESPACE, "wait", f"vdi/{SESSION}", "--for=condition=Ready"]
    with progress.step(f"vdi {' '.join(create)}") as step:
        step.run(command, env=_environment(demo.kubeconfig))
    session = json.loads(_kubectl(demo, "get", "vdi", SESSION, "-o", "json"))
    secrets = json.loads(_kubectl(demo, "get", "secret", "-l", f"vdi.kasm.io/session={SESSION}", "-o", "json"))
    password = base64.b64decode(secrets["items"][0]["data"]["password"]).decode()
    return Desktop(url=session["status"]["url"], user="user", password=password)


def take_picture(desktop: Desktop, file: Path, *, progress: Progress) -> None:
    """Open the desktop in a real browser, type into its terminal, and save what is seen. Raises NoPictureError."""
    with (
        progress.step(f"Open the desktop in a browser and take {file}"),
        DesktopBrowser(desktop.url, desktop.user, desktop.password) as browser,
    ):
        browser.open()
        before = browser.picture()
        browser.open_terminal()
        browser.wait_for_change(before, pixels=20_000)
        before = browser.picture()
        browser.type("cat /etc/os-release | head -1; id; df -h ~ /dev/shm\n")
        browser.wait_for_change(before, pixels=2_000)
        browser.picture().save(file)


def down(name: str) -> list[str]:
    """Stop everything the demo started; says what was removed. Built programs and images stay in the cache."""
    return cluster.down(name)


def _make_parts(browser: bool, progress: Progress) -> tuple[Mapping[str, Path], Sequence[Path]]:
    """Programs, and the images of operator and desktop, side by side: the first mostly compile, the others unpack."""
    found: dict[str, Path] = {}

    def programs() -> list[Path]:
        found.update(binaries.ensure([*CONTROL_PLANE_BINARIES, *NODE_BINARIES, "kubectl", "helm"], progress=progress))
        return []

    def window() -> list[Path]:
        if browser and find_chromium() is None:
            with progress.step("Install Chromium, to look at the desktop with") as step:
                packages.install(step, ["chromium"])
        return []

    def pictures() -> list[Path]:
        images.ensure_base(progress=progress)
        return [images.ensure_operator(progress=progress), images.ensure_desktop(progress=progress)]

    return found, progress.side_by_side([programs, window, pictures])[2]


def _install(chart: Sequence[str | Path], demo: Demo, *, progress: Progress) -> None:
    with progress.step("helm upgrade --install vdi charts/vdi") as step:
        step.run(chart, env=_environment(demo.kubeconfig))
    if not _kubectl(demo, "get", "vditemplates", "-o", "name").strip():
        with progress.step("The same once more: the templates, whose kind the first run has made") as step:
            step.run(chart, env=_environment(demo.kubeconfig))


def _folder_of_tools(folder: Path, found: Mapping[str, Path]) -> Path:
    """What a person types, in one folder for the PATH; with `kubectl-vdi` there, `kubectl vdi` works."""
    folder.mkdir(exist_ok=True)
    scripts = Path(sys.executable).parent
    programs = {name: found[name] for name in ("kubectl", "helm")}
    for name, program in {**programs, "vdi": scripts / "vdi", "kubectl-vdi": scripts / "kubectl-vdi"}.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(program)
    return folder


def _roll_back_flag(helm: Path) -> str:
    """Helm 4 renamed --atomic."""
    version = subprocess.run([helm, "version", "--short"], capture_output=True, text=True, check=True).stdout
    return "--atomic" if version.startswith("v3") else "--rollback-on-failure"


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(kubeconfig)}


def _kubectl(demo: Demo, *words: str) -> str:
    argv = [str(demo.tools / "kubectl"), "-n", NAMESPACE, *words]
    done = subprocess.run(argv, env=_environment(demo.kubeconfig), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"`kubectl {' '.join(words)}`: {done.stderr.strip()}")
    return done.stdout
