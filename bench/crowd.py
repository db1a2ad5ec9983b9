"""`python -m bench.streaming --crowd`: how soon people see what they type while their node's other
desktops are busy.

The desktops differ in nothing but what is done in them. In each but the last a person types: `vdi
session probe`, which comes by Traefik, TLS and the gateway and decodes what it gets, and takes less
CPU than a browser, which on a real node is elsewhere. The last one is open in a browser; first
nothing moves in it, then a picture moves over its whole screen.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import podload
from bench.photon import Window
from bench.processes import cpu_seconds, machine_cpu_seconds
from bench.report import goal, render
from bench.stats import percentile
from bench.template_copy import OfTemplateCopy
from bench.ways import NAMESPACE, Object
from vdi.cli.logins import Login as Stored
from vdi.cli.logins import Logins, write_logins
from vdi.demo.browser import Login
from vdi.devcluster import probe
from vdi.devcluster.progress import Progress
from vdi.kube.config import load_config
from vdi.kube.resource import PODS
from vdi.kube.transport import Client
from vdi.session.naming import SESSION_LABEL

SIZE = (1280, 720)
TEMPLATE = "bench-crowd"
AIM_P95_MS = 50.0
FRAMES_SECONDS = 8.0
SETTLE_SECONDS = 5.0
PROBE_SECONDS = 180.0
# Of one probe.
MOST_KEYS = 100
AT_REST, MOVING = "nothing moves", "a moving picture"

# Makes a token as the account page does, on any page of the portal.
MAKE_TOKEN = """async label => {
  const me = await (await fetch('/api/v1/me')).json();
  const answer = await fetch('/api/v1/tokens', {
    method: 'POST', body: JSON.stringify({label, days: 1}),
    headers: {'Content-Type': 'application/json', 'X-CSRF-Token': me.csrfToken},
  });
  return (await answer.json()).token;
}"""

COLUMNS = (
    "people who type", "beside them", "keys", "p50, ms", "p95, ms", "lost", "one who types, cores", "beside, cores",
    "its frames/s", "browser and probes, cores", "whole node, cores",
)  # fmt: skip

Figures = dict[str, Any]
# A moving picture in the desktop of that pod.
Playing = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Desktop:
    name: str
    url: str
    pod: str
    # Of the pod.
    uid: str


def _sessions(client: Client, login: Login) -> OfTemplateCopy:
    """Without homes, so that one user may have several at once."""
    return OfTemplateCopy(client, login, TEMPLATE, {"persistence": {"enabled": False}})


def _name(number: int) -> str:
    return f"crowd-{number}"


async def start(kubeconfig: Path, template: str, login: Login, count: int) -> list[Desktop]:
    """So many desktops. Raises KubeError, RuntimeError, TimeoutError."""
    desktops = []
    async with Client(load_config(kubeconfig), field_manager="vdi-bench") as client:
        sessions = _sessions(client, login)
        await sessions.prepare(template)
        for name in map(_name, range(1, count + 1)):
            await sessions.apply(name)
            await sessions.ready(name)
            label = f"{SESSION_LABEL}={name}"
            [pod] = await client.list(PODS, namespace=NAMESPACE, label_selector=label, into=Object)
            desktops.append(
                Desktop(
                    name, await sessions.url(name), pod["metadata"]["name"], pod["metadata"]["uid"]
                )
            )
    return desktops


async def stop(kubeconfig: Path, login: Login, count: int) -> None:
    """Remove them and their template. Raises KubeError, TimeoutError."""
    async with Client(load_config(kubeconfig), field_manager="vdi-bench") as client:
        sessions = _sessions(client, login)
        for name in map(_name, range(1, count + 1)):
            await sessions.remove(name)
        await sessions.clear()


@contextmanager
def _stored(kubeconfig: Path, login: Login, token: str) -> Iterator[None]:
    """Commands of this process's children are that user's while the context lasts."""
    before = os.environ.get("XDG_CONFIG_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        try:
            authority = (kubeconfig.parent / "pki/web-ca.crt").read_text()
            write_logins(
                Logins(login.portal, {login.portal: Stored(login.user, token, ca=authority)})
            )
            yield
        finally:
            os.environ.pop("XDG_CONFIG_HOME")
            if before is not None:
                os.environ["XDG_CONFIG_HOME"] = before


def _open_each(desktops: Sequence[Desktop], login: Login) -> None:
    """Give each screen its size, which the probes leave as it is."""
    for desktop in desktops:
        with _window(desktop, login) as window:
            window.log_in()
            window.open()


def _window(desktop: Desktop, login: Login) -> Window:
    return Window(desktop.url, login, width=SIZE[0], height=SIZE[1])


def _type(
    desktops: Sequence[Desktop], keys: int, server: str, meanwhile: Callable[[], float]
) -> tuple[Figures, float]:
    """All type at once. Raises RuntimeError."""
    program = Path(sys.executable).with_name("vdi")
    with ExitStack() as stack:
        probes = []
        for desktop in desktops:
            command = [
                str(program),
                "session",
                "probe",
                desktop.name,
                "--server",
                server,
                "-o",
                "json",
            ]
            command += ["--keys", str(min(keys, MOST_KEYS))]
            started = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            stack.callback(started.wait)
            stack.callback(started.kill)
            probes.append(started)
        shown = meanwhile()
        milliseconds: list[float] = []
        lost = 0
        for each in probes:
            out, err = each.communicate(timeout=PROBE_SECONDS)
            if not out.strip():
                raise RuntimeError(f"a probe failed: {err.strip()}")
            typed = json.loads(out)["figures"]
            milliseconds += typed["inputToPhotonMs"]
            lost += typed["keysWithoutEffect"]
    return {"ms": milliseconds, "keys_without_effect": lost}, shown


def measure(
    cluster: str, kubeconfig: Path, login: Login, progress: Progress, *, template: str, sizes: Sequence[int], keys: int,
    playing: Playing,
) -> list[Figures]:  # fmt: skip
    """For each number of people who type: with nothing that moves beside them, and with a moving
    picture.

    Raises KubeError, NoPictureError, RuntimeError, TimeoutError; nothing is left behind.
    """
    most = max(sizes) + 1
    taken: list[Figures] = []
    try:
        with progress.step(f"Start {most} desktops"):
            *typists, watched = asyncio.run(start(kubeconfig, template, login, most))
            _open_each(typists, login)
        with _window(watched, login) as window, ExitStack() as stack:
            window.log_in()
            stack.enter_context(
                _stored(kubeconfig, login, window.page.evaluate(MAKE_TOKEN, "bench"))
            )
            window.open()
            for count in sizes:
                for beside in (AT_REST, MOVING):
                    moving = playing(watched.pod) if beside == MOVING else nullcontext()
                    with progress.step(f"{count} type, {beside}"), moving:
                        time.sleep(SETTLE_SECONDS)
                        group = typists[:count]
                        taken.append({"typists": count, "beside": beside})
                        taken[-1] |= _round(cluster, group, watched, keys, login.portal, window)
    finally:
        asyncio.run(stop(kubeconfig, login, most))
    return taken


def _round(
    cluster: str,
    typists: Sequence[Desktop],
    watched: Desktop,
    keys: int,
    server: str,
    window: Window,
) -> Figures:
    mounts = probe.cgroup_mounts()

    def used(desktops: Sequence[Desktop]) -> float:
        return sum(podload.read(mounts, cluster, desktop.uid).cpu_seconds for desktop in desktops)

    before, before_watched, begun = used(typists), used([watched]), time.monotonic()
    own, node = cpu_seconds(os.getpid()), machine_cpu_seconds()
    typed, shown = _type(
        typists, keys, server, lambda: window.frames(FRAMES_SECONDS) / FRAMES_SECONDS
    )
    took = time.monotonic() - begun
    return typed | {
        "frames_per_second": shown,
        "typist_cores": (used(typists) - before) / took / len(typists),
        "watched_cores": (used([watched]) - before_watched) / took,
        "own_cores": (cpu_seconds(os.getpid()) - own) / took,
        "node_cores": (machine_cpu_seconds() - node) / took,
    }


def table(taken: Sequence[Figures], cpus: int) -> str:
    """What people read."""
    rows = [list(COLUMNS)]
    for one in taken:
        p50, p95 = (percentile(one["ms"], percent) for percent in (50.0, 95.0))
        rows.append(
            [
                str(one["typists"]),
                one["beside"],
                str(len(one["ms"]) + one["keys_without_effect"]),
                "-" if p50 is None else f"{p50:.1f}",
                "-" if p95 is None else f"{p95:.1f}",
                str(one["keys_without_effect"]),
                f"{one['typist_cores']:.2f}",
                f"{one['watched_cores']:.2f}",
                f"{one['frames_per_second']:.1f}",
                f"{one['own_cores']:.2f}",
                f"{one['node_cores']:.2f}",
            ]
        )
    head = (
        f"one node of {cpus} CPUs that runs cluster, desktops, browser and probes; software"
        " encoder; 1280x720"
    )
    return "\n".join([head, "", render(rows), "", *verdicts(taken)])


def verdicts(taken: Sequence[Figures]) -> list[str]:
    """Whether the aim is met at each size of the crowd."""
    said = []
    for one in taken:
        slow = percentile(one["ms"], 95.0)
        if slow is not None and one["beside"] == MOVING:
            text = f"{one['typists']} who type beside a moving picture, p95 {slow:.1f} ms: at most"
            is_met = slow <= AIM_P95_MS and not one["keys_without_effect"]
            said.append(goal(is_met, f"{text} {AIM_P95_MS:g} ms wanted"))
    return said
