"""A world that looks like a busy Friday: what the pictures in the documentation show."""

import random
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from unit.gateway.portal_stage import Stage, a_session, a_template
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gateway.history.part import Past
from vdi.gateway.history.rows import EndReason, RunRow, SessionRow
from vdi.gateway.history.usage import Usage
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.portal.doctor import Group, Report
from vdi.gateway.store.audit import Entry
from vdi.session.times import format_time

LIMITS = Limits(
    default=Limit(sessions=3, gpus=2, hours=200.0),
    groups={"students": Limit(sessions=1)},
    users={"alice@example.com": Limit(gpus=8), "peggy@example.com": Limit(sessions=0)},
)
_PEOPLE = [
    "bob",
    "carol",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "mallory",
    "niaj",
    "olivia",
    "peggy",
    "rupert",
    "sybil",
    "trent",
    "victor",
]
_SLOTS = 24
_TEMPLATES = ("ubuntu-desktop", "blender", "pytorch", "firefox", "qgis")


def svg(colour: str, path: str) -> str:
    """A small icon as a template's admin would embed it."""
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><rect width="48" height="48" fill="{colour}"/>'
        f'<path d="{path}" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round"/></svg>'
    )
    return f"data:image/svg+xml;base64,{b64encode(picture.encode()).decode()}"


def furnish(stage: Stage, *, crowd: int = 0) -> None:
    """Put templates, pools, Alice's desktops and `crowd` others into the stage's world, and give it a past."""
    now = stage.now

    def at(**before: float) -> str:
        return format_time(now - timedelta(**before))

    def until(**after: float) -> str:
        return format_time(now + timedelta(**after))

    stage.put(
        a_template(
            "ubuntu-desktop",
            displayName="Ubuntu desktop",
            description="A full XFCE desktop with browser, terminal and office. Good for nearly everything.",
            icon=svg("#b4472a", "M14 30 L24 14 L34 30 M18 34 H30"),
            resources={"maxGPU": 2, "maxMemory": "16Gi", "maxCPU": "8"},
            lifecycle={"maxTimeout": "24h", "idleTimeout": "1h"},
        ),
        a_template(
            "blender",
            displayName="Blender studio",
            description="Blender with Cycles on the GPU, and the shared asset library.",
            icon=svg("#2f6fb0", "M12 24 A12 12 0 1 0 36 24 A12 12 0 1 0 12 24 M24 18 V24 H31"),
            resources={"defaultMemory": "16Gi", "defaultCPU": "4", "maxMemory": "64Gi", "maxCPU": "16"},
        ),
        a_template(
            "pytorch",
            displayName="PyTorch workbench",
            description="JupyterLab and VS Code with CUDA, for training and trying things out.",
            resources={"defaultMemory": "32Gi", "defaultCPU": "8", "maxGPU": 4},
            access={"groups": ["research"], "users": ["alice@example.com"]},
        ),
        a_template(
            "firefox",
            displayName="Firefox",
            description="One browser and nothing else; everything in it is forgotten when it ends.",
            resources={"defaultGPU": 0, "defaultMemory": "2Gi", "defaultCPU": "1"},
            persistence={"enabled": False},
        ),
        a_template("qgis", displayName="QGIS", description="Maps, with the department's layers mounted read-only."),
    )
    desktop = {
        "podName": "p",
        "nodeName": "gpu-node-1",
        "startTime": at(hours=3),
        "expiresAt": until(hours=5, minutes=2),
    }

    def session(name: str, template: str, phase: str, created: str, status: dict[str, Any], **spec: Any) -> VDISession:
        url = f"{stage.settings.url(stage.settings.host(name))}/"
        more = {"phase": phase, "url": url} | status
        return a_session(name, template=template, created=created, status=more, **spec)

    expiring = {"type": "Expiring", "status": "True", "reason": "ExpiringSoon"}
    expiring["message"] = "Its time ends at 12:06 UTC. Extend it to go on, or save your work."
    stage.put(
        session(
            "alice-ubuntu",
            "ubuntu-desktop",
            "Running",
            at(hours=3),
            desktop,
            access=[
                {"user": "bob@example.com", "role": "viewer", "expires": until(hours=2)},
                {"user": "carol@example.com", "role": "collaborator"},
            ],
        ),
        session(
            "alice-render",
            "blender",
            "Running",
            at(hours=8),
            desktop | {"expiresAt": until(minutes=4), "conditions": [expiring]},
        ),
        session(
            "alice-training",
            "pytorch",
            "Pending",
            at(minutes=6),
            {
                "queue": {"position": 2, "reason": "GPUsBusy", "earliestSlot": until(minutes=25)},
                "message": f"All {_SLOTS} GPU slots are in use.",
            },
            resources={"gpu": 2, "memory": "32Gi"},
        ),
        session(
            "alice-maps",
            "qgis",
            "Creating",
            at(seconds=9),
            {"message": "The image is being fetched.", "startTime": at(seconds=5)},
        ),
        session("alice-web", "firefox", "Suspended", at(days=2), {}, suspended=True),
        session(
            "bob-review",
            "blender",
            "Running",
            at(hours=1),
            desktop,
            user="bob@example.com",
            access=[{"user": "alice@example.com", "role": "viewer", "expires": until(hours=6)}],
        ),
        session(
            "carol-pair",
            "ubuntu-desktop",
            "Running",
            at(hours=2),
            desktop,
            user="carol@example.com",
            access=[{"user": "alice@example.com", "role": "collaborator"}],
        ),
    )
    _crowd(stage, crowd)
    _pools(stage)
    stage.client.nodes = [
        _node("gpu-node-1", 8),
        _node("gpu-node-2", 8),
        _node("gpu-node-3", 8, cordoned=True),
        _node("cpu-1", 0),
    ]
    _past(stage, now)
    _audit(stage, now)
    _doctor(stage, now)


def _crowd(stage: Stage, crowd: int) -> None:
    chance, line = random.Random(7), 2
    for number in range(crowd):
        who, template = chance.choice(_PEOPLE), chance.choice(_TEMPLATES)
        name = f"{who}-{template}-{number}"
        busy = number < _SLOTS - 8
        phase = "Running" if busy else chance.choices(("Suspended", "Pending", "Failed"), (85, 11, 4))[0]
        created = stage.now - timedelta(minutes=chance.randint(1, 3000))
        status: dict[str, Any] = {"phase": phase, "url": stage.settings.url(stage.settings.host(name))}
        if phase in ("Running", "Creating"):
            begun = max(created, stage.now - timedelta(hours=7))
            status |= {
                "podName": name,
                "nodeName": f"gpu-node-{1 + (number > 3) + (number > 11)}",
                "startTime": format_time(begun),
            }
            status["expiresAt"] = format_time(begun + timedelta(hours=8))
        if phase == "Pending":
            line += 1
            status["queue"] = {"position": line, "reason": "GPUsBusy"}
            status["message"] = f"All {_SLOTS} GPU slots are in use."
        if phase == "Failed":
            status["message"] = "The image cannot be pulled: registry.example.com answers 403."
        stage.put(
            a_session(
                name,
                user=f"{who}@example.com",
                template=template,
                created=format_time(created),
                status=status,
                suspended=phase == "Suspended",
            )
        )


def _pools(stage: Stage) -> None:
    for name, ready, wanted, message in (
        ("firefox-ready", 3, 3, ""),
        ("ubuntu-ready", 1, 4, "Waits for room: all GPU slots are in use."),
    ):
        stage.put(
            msgspec.convert(
                {
                    "metadata": {"name": name},
                    "spec": {"template": name.removesuffix("-ready"), "ready": wanted},
                    "status": {"ready": ready, "starting": 1, "claimed": 12, "message": message},
                },
                VDIPool,
            )
        )


def _node(name: str, gpus: int, *, cordoned: bool = False) -> dict[str, Any]:
    there = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": {"unschedulable": cordoned},
        "status": {"capacity": there, "allocatable": there},
    }


def _past(stage: Stage, now: datetime) -> None:
    def past(name: str, template: str, days: float, hours: float, reason: EndReason | None, **run: Any) -> Past:
        created = now - timedelta(days=days)
        ended = created + timedelta(hours=hours) if reason else None
        uid = f"uid-{name}"
        row = SessionRow(
            uid=uid,
            name=name,
            namespace="vdi-sessions",
            owner="alice@example.com",
            template=template,
            created=created,
            ended=ended,
            end_reason=reason,
            ended_by="alice@example.com" if reason is EndReason.USER else "",
        )
        one = RunRow(uid=uid, start=created + timedelta(seconds=1), gpus=1, ended=ended, end_reason=reason, **run)
        ready = one.start + timedelta(seconds=run.get("startup_seconds", 2.0))
        return Past(row, (replace(one, ready=ready),))

    stage.history.pasts = [
        past("alice-ubuntu", "ubuntu-desktop", 0.125, 0, None, startup_seconds=2.1),
        past("alice-render", "blender", 0.334, 0, None, startup_seconds=3.4, queue_seconds=260.0),
        past("alice-thesis", "ubuntu-desktop", 1.2, 7.8, EndReason.TIMEOUT, startup_seconds=2.4),
        past("alice-demo", "firefox", 2.1, 0.7, EndReason.USER, startup_seconds=0.9),
        past("alice-maps-old", "qgis", 5.4, 3.2, EndReason.IDLE, startup_seconds=4.8, queue_seconds=1260.0),
        past("alice-training-1", "pytorch", 9.0, 12.5, EndReason.USER, startup_seconds=6.2, queue_seconds=71.0),
    ]
    month = f"{now:%Y-%m}"
    stage.history.report = [
        Usage(
            user=f"{who}@example.com",
            month=month,
            sessions=9 - number,
            runs=14 - number,
            hours=96.4 - 9.3 * number,
            gpu_hours=103.2 - 9.1 * number,
            queued=5 - number // 2,
            median_queue_seconds=310.0 - 20 * number,
            median_startup_seconds=2.3 + number / 5,
        )
        for number, who in enumerate(_PEOPLE[:7])
    ]


def _audit(stage: Stage, now: datetime) -> None:
    rows: tuple[tuple[str, str, str, str, dict[str, str], str], ...] = (
        (
            "alice@example.com",
            "session.share",
            "alice-ubuntu",
            "done",
            {"user": "bob@example.com", "role": "viewer"},
            "",
        ),
        ("alice@example.com", "session.start", "alice-maps", "done", {"template": "qgis"}, ""),
        ("bob@example.com", "session.start", "bob-third", "OverLimit", {"template": "blender"}, ""),
        ("root@example.com", "session.end", "trent-old", "done", {}, "trent@example.com"),
        ("mallory@example.com", "login.begin", "mallory@example.com", "refused", {"how": "password"}, ""),
        ("carol@example.com", "login.begin", "carol@example.com", "done", {"how": "oidc"}, ""),
    )
    stage.audit.rows = [
        Entry(100 - n, now - timedelta(minutes=7 * n), actor, "203.0.113.7", action, target, "", owner, outcome, detail)
        for n, (actor, action, target, outcome, detail, owner) in enumerate(rows)
    ]


def _doctor(stage: Stage, now: datetime) -> None:
    cause = Finding(
        code="gpu_config_not_read",
        severity=Severity.ERROR,
        object="node/gpu-node-3",
        message="gpu-node-3 advertises 1 GPU where time-slicing-config says 8: its device plugin has not read it.",
        evidence=("status.allocatable[nvidia.com/gpu] = 1", "ConfigMap gpu-operator/time-slicing-config: replicas: 8"),
        remedy=Remedy.run("kubectl -n gpu-operator rollout restart daemonset/nvidia-device-plugin-daemonset"),
    )
    follows = Finding(
        code="gpu_insufficient",
        severity=Severity.WARNING,
        object="vdisession/vdi-sessions/alice-training",
        message="It waits for 2 GPUs, and no node has so many left.",
        remedy=Remedy("Wait, or end a desktop."),
        caused_by=cause.key,
    )
    unknown = Finding(
        code="not_readable",
        severity=Severity.UNKNOWN,
        object="kind/secrets",
        message="The gateway's account may not get secrets. Not checked: certificate_expired.",
        remedy=Remedy.run("vdi doctor"),
    )
    summary = "Looked at 67 sessions and 4 nodes: 1 error, 1 unknown, and 1 that follow from them."
    groups = (Group(cause, (follows,)), Group(unknown, ()))
    stage.portal.doctor.last = Report(now - timedelta(minutes=3), summary, groups, unknown=1)


START = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
"""When the pictures are taken, as far as the portal knows."""
