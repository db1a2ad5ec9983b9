"""The demo's scene: templates, people and sessions that show what README promises. Called by `vdi demo up`.

Only the templates are there before the first desktop's picture. Objects that exist are left as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vdi.api.meta import API_VERSION, GROUP
from vdi.demo import run
from vdi.demo.browser import Login
from vdi.devcluster import images
from vdi.devcluster.progress import Progress
from vdi.kinds import POOLS, SESSIONS

ALICE, BOB = "alice@example.com", "bob@example.com"
Specs = Mapping[str, Mapping[str, Any]]
# Free for the pool's desktop: what README requires of the whole machine.
_POOL_CORES, _POOL_GIB = 2, 6

_SUSPENDED = {"idleTimeout": "1h", "onTimeout": "Suspend"}
# Chart values. All desktops have the image that the demo has built.
TEMPLATES: Specs = {
    run.TEMPLATE: {"lifecycle": _SUSPENDED},
    "developer": {
        "image": images.DESKTOP,
        "displayName": "Developer",
        "description": "More memory and processors, and a larger home",
        "resources": {"defaultGPU": 0, "defaultCPU": "2", "defaultMemory": "6Gi"},
        "persistence": {"size": "20Gi"},
        "lifecycle": _SUSPENDED,
    },
    "cad": {
        "image": images.DESKTOP,
        "displayName": "CAD",
        "icon": "gpu",
        "description": "A desktop with a GPU. The demo's GPUs are simulated: it draws in software",
        "resources": {"defaultGPU": 1, "maxGPU": run.FAKE_GPUS, "defaultCPU": "2", "defaultMemory": "4Gi"},
        "lifecycle": _SUSPENDED,
    },
    "kiosk": {
        "image": images.DESKTOP,
        "displayName": "Kiosk browser",
        "icon": "browser",
        "description": "Firefox with one page, full screen. No files are kept",
        "app": {"command": ["firefox-esr", "--kiosk", "https://www.debian.org"]},
        "resources": {"defaultGPU": 0, "defaultCPU": "1", "defaultMemory": "2Gi"},
        "persistence": {"enabled": False},
        "lifecycle": {"maxTimeout": "2h", "idleTimeout": "15m", "onIdle": "Terminate"},
    },
}
# One pod takes all GPUs, so that the next session waits. It is created when that pod runs: the queue would start the
# smaller request first.
_RUNNING: Specs = {
    "alice-desktop": {"user": ALICE, "template": run.TEMPLATE, "access": [{"user": BOB, "role": "viewer"}]},
    "bob-cad": {"user": BOB, "template": "cad", "resources": {"gpu": run.FAKE_GPUS}, "timeout": "2h"},
}
_WAITING: Specs = {"alice-cad": {"user": ALICE, "template": "cad"}}
_POOL: Specs = {"kiosk": {"template": "kiosk", "replicas": 1}}


@dataclass(frozen=True)
class Scene:
    """People who can log in, and why a part is missing (empty: nothing is)."""

    people: Sequence[Login]
    left_out: str


def seed(demo: run.Demo, *, progress: Progress) -> Scene:
    """Create the people, sessions and pool that do not exist yet. Raises DemoError."""
    with progress.step("People, a shared desktop, a queue for the GPUs and a pool"):
        folder, factor = demo.kubeconfig.parent, demo.timeout_factor
        people = [
            run.ready_user(demo.kubeconfig, folder, demo.login.portal, user, admin=False, timeout_factor=factor)
            for user in (ALICE, BOB)
        ]
        left_out = missing_capacity(os.cpu_count() or 1, Path("/proc/meminfo").read_text())
        kubectl = partial(run.kubectl, demo.kubeconfig, demo.tools / "kubectl")
        create_objects(kubectl, pool=not left_out, timeout_factor=factor)
        return Scene(people, left_out)


def missing_capacity(cores: int, meminfo: str) -> str:
    """Reason why this machine gets no pool; empty if it gets one."""
    free = int(meminfo.partition("MemAvailable:")[2].split()[0]) / 2**20
    if cores >= _POOL_CORES and free >= _POOL_GIB:
        return ""
    return (
        f"the pool of kiosk desktops: it needs {_POOL_CORES} cores and {_POOL_GIB} GiB of free memory; "
        f"this machine has {cores} and {free:.1f} GiB"
    )


def create_objects(kubectl: Callable[..., str], *, pool: bool, timeout_factor: float = 1.0) -> None:
    """Create the sessions, and the pool where there is capacity for it. Raises DemoError."""
    there = kubectl("get", "vdi,vdipool", "-o", "name").split()
    if running := _create(kubectl, SESSIONS.kind, _RUNNING, there):
        kubectl("wait", *running, "--for=condition=Ready", f"--timeout={120 * timeout_factor:.0f}s")
    _create(kubectl, SESSIONS.kind, _WAITING, there)
    if pool:
        _create(kubectl, POOLS.kind, _POOL, there)


def _create(kubectl: Callable[..., str], kind: str, specs: Specs, there: Sequence[str]) -> list[str]:
    """Create the objects that are missing; returns their names, as `kubectl get -o name` has them."""
    created = []
    for name, spec in specs.items():
        if (full_name := f"{kind.lower()}.{GROUP}/{name}") not in there:
            manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
            kubectl("create", "-f", "-", stdin=json.dumps(manifest))
            created.append(full_name)
    return created
