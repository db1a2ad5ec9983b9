"""The demo's scene: templates, people and sessions that show what README promises. Called by `vdi
demo up`.

Only the templates are there before the first desktop's picture. Objects that exist are left as they
are.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
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


def _desktop(
    name: str, description: str, cpu: int, memory: str, gpus: int = 0, **more: Any
) -> dict[str, Any]:
    resources = {
        "defaultGPU": gpus,
        "maxGPU": gpus and run.FAKE_GPUS,
        "defaultCPU": str(cpu),
        "defaultMemory": memory,
    }
    named = {
        "image": images.DESKTOP,
        "displayName": name,
        "description": description,
        "resources": resources,
    }
    return {**named, "lifecycle": _SUSPENDED, **more}


# Chart values. All desktops have the image that the demo has built.
TEMPLATES: Specs = {
    run.TEMPLATE: {"lifecycle": _SUSPENDED},
    "developer": _desktop(
        "Developer",
        "More memory and processors, and a larger home",
        2,
        "6Gi",
        persistence={"size": "20Gi"},
    ),
    "cad": _desktop(
        "CAD",
        "A desktop with a GPU. The demo's GPUs are simulated: it draws in software",
        2,
        "4Gi",
        1,
        icon="gpu",
    ),
    "kiosk": _desktop(
        "Kiosk browser",
        "Firefox with one page, full screen. No files are kept",
        1,
        "2Gi",
        icon="browser",
        app={"command": ["firefox-esr", "--kiosk", "https://www.debian.org"]},
        persistence={"enabled": False},
        lifecycle={"maxTimeout": "2h", "idleTimeout": "15m", "onIdle": "Terminate"},
    ),
}
# One pod takes all GPUs, so that the next session waits. It is created when that pod runs: the
# queue would start the smaller request first.
_RUNNING: Specs = {
    "alice-small": {
        "user": ALICE,
        "template": run.TEMPLATE,
        "access": [{"user": BOB, "role": "viewer"}],
    },
    "bob-cad": {
        "user": BOB,
        "template": "cad",
        "resources": {"gpu": run.FAKE_GPUS},
        "timeout": "2h",
    },
}
_WAITING: Specs = {"alice-cad": {"user": ALICE, "template": "cad"}}
_POOL: Specs = {"kiosk": {"template": "kiosk", "replicas": 1}}


def seed(demo: run.Demo, *, progress: Progress) -> tuple[Sequence[Login], str]:
    """The people, sessions and pool: those that do not exist are created. Raises DemoError.

    Returns the people who can log in, and why the pool is missing (empty: it is not).
    """
    with progress.step("People, a shared desktop, a queue for the GPUs and a pool"):
        ready = partial(
            run.ready_user, demo.kubeconfig, demo.kubeconfig.parent, demo.login.portal, admin=False
        )
        people = [ready(user, timeout_factor=demo.timeout_factor) for user in (ALICE, BOB)]
        left_out = missing_capacity(os.cpu_count() or 1, Path("/proc/meminfo").read_text())
        kubectl = partial(run.kubectl, demo.kubeconfig, demo.tools / "kubectl")
        create_objects(
            kubectl, pool=not left_out, seconds=run.SESSION_SECONDS * demo.timeout_factor
        )
        return people, left_out


def missing_capacity(cores: int, meminfo: str) -> str:
    """Reason why this machine gets no pool; empty if it gets one."""
    free = int(meminfo.partition("MemAvailable:")[2].split()[0]) / 2**20
    if cores >= _POOL_CORES and free >= _POOL_GIB:
        return ""
    return (
        f"the pool of kiosk desktops: it needs {_POOL_CORES} cores and {_POOL_GIB} GiB of free"
        f" memory; this machine has {cores} and {free:.1f} GiB"
    )


def create_objects(kubectl: Callable[..., str], *, pool: bool, seconds: float) -> None:
    """Create the sessions, and the pool where there is capacity for it. `seconds`: limit of a
    start. Raises DemoError.

    A run that was interrupted, or was too slow, is continued by the next one, which waits for the
    desktops again.
    """
    there = kubectl("get", "vdi,vdipool", "-o", "name").split()

    def create(kind: str, specs: Specs) -> None:
        for name, spec in specs.items():
            if f"{kind.lower()}.{GROUP}/{name}" not in there:
                manifest = {
                    "apiVersion": API_VERSION,
                    "kind": kind,
                    "metadata": {"name": name},
                    "spec": spec,
                }
                kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    create(SESSIONS.kind, _RUNNING)
    # A person may have suspended a desktop of a complete scene.
    if any(f"{SESSIONS.kind.lower()}.{GROUP}/{name}" not in there for name in _WAITING):
        desktops = [f"vdi/{name}" for name in _RUNNING]
        kubectl("wait", *desktops, "--for=condition=Ready", f"--timeout={seconds:.0f}s")
        create(SESSIONS.kind, _WAITING)
    if pool:
        create(POOLS.kind, _POOL)
