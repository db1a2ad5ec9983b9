"""The demo: cluster, images, chart, a user of the portal, one session and its picture, by the same
commands that people would type.

Called by `vdi demo` and by the end-to-end tests. Every part is idempotent: existing parts are left
as they are.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vdi.demo.browser import DesktopBrowser, Login, NoPictureError, missing_packages
from vdi.devcluster import binaries, cluster, images, privileged
from vdi.devcluster.binaries import packages
from vdi.devcluster.control_plane import CONTROL_PLANE_BINARIES
from vdi.devcluster.host_settings import without_proxies
from vdi.devcluster.layout import give_to_invoker, write_private
from vdi.devcluster.node import NODE_BINARIES
from vdi.devcluster.progress import Progress
from vdi.session.naming import pod_name

RELEASE = "vdi"
NAMESPACE, DOMAIN = "vdi-sessions", "vdi.localhost"
SESSION, USER, TEMPLATE = "first", "you@example.com", "small"
# What one GPU offers under time-slicing; the demo's node pretends to have it, so that GPU templates
# can be tried.
FAKE_GPUS = 8

_INSTALL_SECONDS, SESSION_SECONDS, _COMMAND_SECONDS = 600.0, 300.0, 60.0


class DemoError(Exception):
    """Raised when the demo cannot go on; says what to do."""


class PeopleError(DemoError):
    """Raised when a user cannot be created; has the message of `vdi gateway user`."""


def ready_user(
    kubeconfig: Path,
    folder: Path,
    portal: str,
    user: str,
    *,
    admin: bool = True,
    timeout_factor: float = 1.0,
) -> Login:
    """A user of the portal with a generated password, the same as long as the cluster lives.

    The cluster has only a hash, so the password is kept in `folder`, for its owner alone.
    `timeout_factor` multiplies the time limit of each command. Raises PeopleError.
    """
    file, seconds = folder / f"portal-login-{user}.json", _COMMAND_SECONDS * timeout_factor
    if file.exists() and user in _run(kubeconfig, "ls", "-o", "name", seconds=seconds).split():
        return Login(portal, user, json.loads(file.read_text())["password"])
    password = secrets.token_urlsafe(12)
    write_private(file, json.dumps({"user": user, "password": password}).encode())
    give_to_invoker(file)
    add_user(kubeconfig, user, password, *["--admin"] * admin, seconds=seconds)
    return Login(portal, user, password)


def add_user(
    kubeconfig: Path, user: str, password: str, *more: str, seconds: float = _COMMAND_SECONDS
) -> None:
    """Create a local user, or give an existing one this password. Raises PeopleError."""
    known = user in _run(kubeconfig, "ls", "-o", "name", seconds=seconds).split()
    command = ["passwd", user] if known else ["add", user, *more]
    _run(kubeconfig, *command, "--password-stdin", stdin=f"{password}\n", seconds=seconds)


def remove_user(kubeconfig: Path, user: str) -> None:
    """Remove a local user. Raises PeopleError."""
    _run(kubeconfig, "rm", user, "--yes")


def _run(
    kubeconfig: Path, *arguments: str, stdin: str = "", seconds: float = _COMMAND_SECONDS
) -> str:
    command = [sys.executable, "-m", "vdi", "gateway", "user", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise PeopleError(
            f"`vdi gateway user {arguments[0]}` did not end in {seconds:g} s; on a slow machine set"
            " VDI_TIMEOUT_FACTOR=10"
        ) from error
    if done.returncode != 0:
        raise PeopleError(f"`vdi gateway user {arguments[0]}`: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Demo:
    """A cluster with the operator installed."""

    kubeconfig: Path
    # A folder with kubectl, helm and vdi.
    tools: Path
    # An administrator of the portal.
    login: Login
    # What time limits are multiplied with: more than 1 on a slow machine.
    timeout_factor: float = 1.0


def checkout() -> Path:
    """The project's root: the demo needs the chart and the Containerfiles. Raises DemoError outside
    a checkout.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "charts" / "vdi" / "Chart.yaml").is_file():
        raise DemoError(
            "the demo needs a checkout of the project (charts/ and images/), not an installed"
            " package"
        )
    return root


def up(
    name: str,
    *,
    browser: bool,
    nodes: int | None = None,
    templates: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    timeout_factor: float = 1.0,
    progress: Progress,
) -> Demo:
    """Bring up the cluster, install operator and gateway through the chart, and create a user who
    can log in.

    With `browser`, have one for pictures. `nodes` is as in `cluster.up`. `templates` are chart
    values. `timeout_factor` (at least 1) multiplies the time limits, for a slow machine.

    Raises DemoError, ClusterError, StepFailed, BinaryUnavailable and what building an image raises.
    """
    checkout()
    with privileged.rights("The demo"):
        programs, (vdi_image, desktop_image) = _make_parts(browser, progress)
        made = cluster.up(
            name,
            fake_gpus=FAKE_GPUS,
            nodes=nodes,
            install_packages=True,
            image_archives=[vdi_image, desktop_image],
            timeout_factor=timeout_factor,
            progress=progress,
        )
        tools = _folder_of_tools(made.state_dir / "tools", programs)
        repository, _, tag = images.VDI.rpartition(":")
        values = {
            "image": {"repository": repository, "tag": tag},
            "templates": {
                **templates,
                TEMPLATE: {**templates.get(TEMPLATE, {}), "image": images.DESKTOP},
            },
            "urlPort": made.websecure_port,
            "gateway": {"doctor": True},
            "probe": {"enabled": False},  # a machine for a try has better things to do
            # The tag stays the same when the image was built again: its archive's name has a
            # digest.
            "podAnnotations": {"image": vdi_image.parent.name},
        }
        (file := made.state_dir / "values.yaml").write_text(json.dumps(values))
        _install(file, made.kubeconfig, tools, timeout_factor=timeout_factor, progress=progress)
        with progress.step(f"vdi gateway user add {USER} --admin"):
            login = ready_user(
                made.kubeconfig,
                made.state_dir,
                portal_url(made.websecure_port),
                USER,
                timeout_factor=timeout_factor,
            )
        return Demo(made.kubeconfig, tools, login, timeout_factor)


def start_session(demo: Demo, *, progress: Progress) -> str:
    """Start the demo's session, or find it running: its URL. Raises StepFailed with the session's
    own message.
    """
    create = ["session", "create", SESSION, "--user", USER, "--template", TEMPLATE, "--wait"]
    limit = f"{SESSION_SECONDS * demo.timeout_factor:.0f}s"
    command: list[str | Path] = [sys.executable, "-m", "vdi", *create, "--timeout-wait", limit]
    ask = partial(kubectl, demo.kubeconfig, demo.tools / "kubectl")
    if ask("get", "vdi", SESSION, "--ignore-not-found", "-o", "name").strip():
        wait = ["wait", f"vdi/{SESSION}", "--for=condition=Ready", f"--timeout={limit}"]
        command = [demo.tools / "kubectl", "-n", NAMESPACE, *wait]
    with progress.step(f"vdi {' '.join(create)}") as step:
        step.run(command, env=_environment(demo.kubeconfig))
    url: str = json.loads(ask("get", "vdi", SESSION, "-o", "json"))["status"]["url"]
    return url


def take_picture(url: str, demo: Demo, file: Path, *, progress: Progress) -> None:
    """Log in at the portal, open the desktop, type into its terminal, and save what is seen.

    Raises NoPictureError; when it is the desktop that fails, the file has what the browser showed
    then.
    """
    with (
        progress.step(f"Log in to the portal, open the desktop and take {file}"),
        DesktopBrowser(url, demo.login, timeout_factor=demo.timeout_factor) as browser,
    ):
        browser.log_in()
        browser.open()
        before, terminals = browser.picture(), _count_terminals(demo)
        try:
            browser.open_terminal()
            # Not by the picture alone: the new window may cover another one of the same size.
            deadline = time.monotonic() + _COMMAND_SECONDS * demo.timeout_factor
            while _count_terminals(demo) <= terminals:
                if time.monotonic() > deadline:
                    raise NoPictureError("no terminal was opened")
            browser.wait_for_change(before, pixels=200)  # of its title
            before = browser.picture()
            browser.type("cat /etc/os-release | head -1; id; df -h ~ /dev/shm\n")
            browser.wait_for_change(before, pixels=2_000)
        except NoPictureError as error:
            browser.picture().save(file)
            raise NoPictureError(f"{error}; see {file}") from error
        browser.picture().save(file)


def _count_terminals(demo: Demo) -> int:
    pod = ("exec", pod_name(SESSION), "-c", "desktop", "--")
    listed = kubectl(demo.kubeconfig, demo.tools / "kubectl", *pod, "ls", "/dev/pts")
    return len(listed.split())


def portal_url(websecure_port: int) -> str:
    """The portal's address in a cluster with that port."""
    return f"https://portal.{DOMAIN}" + ("" if websecure_port == 443 else f":{websecure_port}")


def down(name: str) -> list[str]:
    """Stop everything the demo started; returns what was removed. Built programs and images stay in
    the cache.
    """
    return cluster.down(name)


def _make_parts(browser: bool, progress: Progress) -> tuple[Mapping[str, Path], Sequence[Path]]:
    """Programs and our two images, side by side: the first mostly compile, the others unpack."""
    found: dict[str, Path] = {}

    def programs() -> list[Path]:
        found.update(
            binaries.ensure(
                [*CONTROL_PLANE_BINARIES, *NODE_BINARIES, "kubectl", "helm"], progress=progress
            )
        )
        return []

    def window() -> list[Path]:
        if browser and (missing := missing_packages()):
            with progress.step(f"Install {' and '.join(missing)} to view the desktop") as step:
                packages.install(step, missing)
        return []

    def pictures() -> list[Path]:
        images.ensure_base(progress=progress)
        return [images.ensure_image(name, progress=progress) for name in ("vdi", "desktop")]

    return found, progress.side_by_side([programs, window, pictures])[2]


def _install(
    values: Path, kubeconfig: Path, tools: Path, *, timeout_factor: float, progress: Progress
) -> None:
    here = ("--all-namespaces", "--selector", f"owner=helm,name={RELEASE},status=deployed")
    there = kubectl(kubeconfig, tools / "kubectl", "get", "secrets", *here, "-o", "name").strip()
    verb = ["upgrade" if there else "install", "--yes"]
    options: list[str | Path] = ["--helm", tools / "helm", "--values", values]
    limit = ["--timeout", f"{_INSTALL_SECONDS * timeout_factor:.0f}s"]
    command: list[str | Path] = [sys.executable, "-m", "vdi", *verb, *options, *limit]
    with progress.step(f"vdi {' '.join(verb)}") as step:
        step.run(command, env=_environment(kubeconfig))


def _folder_of_tools(folder: Path, found: Mapping[str, Path]) -> Path:
    """A folder for the PATH with kubectl, helm, vdi and `kubectl-vdi`, by which `kubectl vdi`
    works.
    """
    folder.mkdir(exist_ok=True)
    scripts = Path(sys.executable).parent
    programs = {name: found[name] for name in ("kubectl", "helm")}
    for name, program in {
        **programs,
        "vdi": scripts / "vdi",
        "kubectl-vdi": scripts / "kubectl-vdi",
    }.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(program)
    return folder


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {**without_proxies(os.environ), "KUBECONFIG": str(kubeconfig)}


def kubectl(kubeconfig: Path, program: Path, *arguments: str, stdin: str = "") -> str:
    """Output of kubectl in the sessions' namespace. Raises DemoError."""
    argv, environment = [str(program), "-n", NAMESPACE, *arguments], _environment(kubeconfig)
    done = subprocess.run(
        argv, input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"`kubectl {' '.join(arguments)}`: {done.stderr.strip()}")
    return done.stdout
