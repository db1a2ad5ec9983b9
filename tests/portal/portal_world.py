"""A world that looks like a busy Friday: what the pictures in the documentation show."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from unit.gateway.portal_stage import PortalStage, a_session, a_template
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gateway.doctor_runs import Group, Report
from vdi.gateway.history.component import Past
from vdi.gateway.history.trends import RunTimes
from vdi.gateway.history.usage import Usage
from vdi.gateway.limits import Limit, Limits, gpus_of
from vdi.gateway.scheduled_starts import DAYS
from vdi.gateway.store.audit import Entry
from vdi.gateway.store.history import EndReason, RunRow, SessionRow
from vdi.gateway.store.scheduled_starts import ScheduledStart
from vdi.gateway.users import normal_user
from vdi.session.schedule import next_time, previous_time
from vdi.session.times import format_time, parse_time

LIMITS = Limits(
    default=Limit(sessions=3, gpus=2, hours=200.0),
    groups={"students": Limit(sessions=1)},
    users={"alice@example.com": Limit(sessions=5, gpus=8), "peggy@example.com": Limit(sessions=0)},
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
    "rupert",
    "sybil",
    "trent",
    "victor",
]
_NODES = {"gpu-node-1": 8, "gpu-node-2": 8, "gpu-node-3": 8, "gpu-node-4": 1}
"""GPU slots of each; the doctor says why the last one has so few."""
_SLOTS = sum(_NODES.values())
_GPU_TEMPLATES = ("ubuntu-desktop", "blender", "pytorch", "qgis")
_GPUS_OF_ONE = 2
"""GPUs that a person may have at once, as LIMITS says."""
_WAITING_MINUTES = {1: 24, 3: 5, 4: 3, 5: 1}
"""How long each place of the queue has waited; Alice has the second."""


def furnish(stage: PortalStage, *, crowd: int = 0) -> None:
    """Put templates, pools, Alice's desktops and `crowd` others into the stage's world, and give it a past."""
    now = stage.clock.wall

    def at(**before: float) -> str:
        return format_time(now - timedelta(**before))

    def until(**after: float) -> str:
        return format_time(now + timedelta(**after))

    stage.put(
        a_template(
            "ubuntu-desktop",
            displayName="Ubuntu desktop",
            description="A full XFCE desktop with browser, terminal and office. Good for nearly everything.",
            icon="desktop",
            resources={"maxGPU": 2, "maxMemory": "16Gi", "maxCPU": "8"},
            lifecycle={"maxTimeout": "24h", "idleTimeout": "1h"},
        ),
        a_template(
            "blender",
            displayName="Blender studio",
            description="Blender with Cycles on the GPU, and the shared asset library.",
            icon="model",
            resources={"defaultMemory": "16Gi", "defaultCPU": "4", "maxMemory": "64Gi", "maxCPU": "16"},
        ),
        a_template(
            "pytorch",
            displayName="PyTorch workbench",
            icon="notebook",
            description="JupyterLab and VS Code with CUDA, for training and trying things out.",
            resources={"defaultMemory": "32Gi", "defaultCPU": "8", "maxGPU": 4},
            access={"groups": ["research"], "users": ["alice@example.com"]},
        ),
        a_template(
            "firefox",
            displayName="Firefox",
            icon="browser",
            description="One browser and nothing else; everything in it is forgotten when it ends.",
            resources={"defaultGPU": 0, "defaultMemory": "2Gi", "defaultCPU": "1"},
            persistence={"enabled": False},
        ),
        a_template(
            "qgis",
            displayName="QGIS",
            description="Maps, with the department's layers mounted read-only.",
            icon="map",
        ),
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
            {
                "message": "The image is being fetched.",
                "podName": "alice-maps",
                "nodeName": "gpu-node-2",
                "startTime": at(seconds=5),
            },
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
    nodes = [_node(name, slots, cordoned=name == "gpu-node-3") for name, slots in _NODES.items()]
    stage.client.nodes = [*nodes, _node("cpu-1", 0)]
    _past(stage, now)
    _audit(stage, now)
    _doctor(stage, now)
    _scheduled(stage, now)


def _crowd(stage: PortalStage, crowd: int) -> None:
    """Others: they fill every GPU slot, then wait or have failed; the rest needs no GPU. No one is above a limit."""
    now, chance = stage.clock.wall, random.Random(7)
    gpus_of = Counter(normal_user(session.spec.user) for session in stage.world.sessions.values())
    people = [f"{who}@example.com" for who in _PEOPLE]
    mine = [who for round_ in range(_GPUS_OF_ONE) for who in people if gpus_of[who] <= round_]
    free = Counter(_NODES) - Counter(session.status.node_name for session in stage.world.sessions.values())
    running = [(who, node) for who, node in zip(mine, free.elements(), strict=False)]
    others = mine[len(running) :]

    def put(who: str, template: str, phase: str, minutes: int, **status: Any) -> None:
        created = format_time(now - timedelta(minutes=minutes))
        name = f"{who.partition('@')[0]}-{template}-{minutes}"
        status |= {"phase": phase, "url": stage.settings.url(stage.settings.host(name))}
        if phase == "Running":
            expires = now + timedelta(hours=8, minutes=-minutes)
            status |= {"podName": name, "startTime": created, "expiresAt": format_time(expires)}
        suspended = phase == "Suspended"
        stage.put(a_session(name, user=who, template=template, created=created, status=status, suspended=suspended))

    for who, node in running:
        put(who, chance.choice(_GPU_TEMPLATES), "Running", chance.randint(20, 420), nodeName=node)
    for place, minutes in _WAITING_MINUTES.items():
        earliest = format_time(now + timedelta(minutes=5 + 10 * place))
        queue = {"position": place, "reason": "GPUsBusy", "earliestSlot": earliest}
        message = f"All {_SLOTS} GPU slots are in use."
        put(others.pop(0), chance.choice(_GPU_TEMPLATES), "Pending", minutes, queue=queue, message=message)
    for who in others[:2]:
        message = "The image cannot be pulled: registry.example.com answers 403."
        put(who, "pytorch", "Failed", chance.randint(20, 60), message=message)
    for who in people[3::4]:
        put(who, "firefox", "Running", chance.randint(20, 420), nodeName="cpu-1")
    for _ in range(crowd - len(running) - len(_WAITING_MINUTES) - 2 - len(people[3::4])):
        template = chance.choice((*_GPU_TEMPLATES, "firefox"))
        put(chance.choice(people), template, "Suspended", chance.randint(60, 3000))


def _pools(stage: PortalStage) -> None:
    for name, ready, desired, message in (
        ("firefox-ready", 3, 3, ""),
        ("ubuntu-ready", 0, 4, f"All {_SLOTS} GPU slots are in use."),
    ):
        stage.put(
            msgspec.convert(
                {
                    "metadata": {"name": name},
                    "spec": {"template": name.removesuffix("-ready"), "ready": desired},
                    "status": {"ready": ready, "starting": 0, "claimed": 12, "message": message},
                },
                VDIPool,
            )
        )


def _scheduled(stage: PortalStage, now: datetime) -> None:
    zone = "Europe/Berlin"

    def start(start_id: str, template: str, days: tuple[str, ...], result: str, message: str = "") -> ScheduledStart:
        cron = f"30 8 * * {','.join(days)}"
        due = next_time(cron, zone, now)
        assert due
        return ScheduledStart(
            id=start_id,
            owner="alice@example.com",
            template=template,
            session=f"alice-{template.partition('-')[0]}",
            time="08:30",
            days=days,
            time_zone=zone,
            created=now - timedelta(days=9),
            next_time=due,
            last_time=previous_time(cron, zone, now) if result else None,
            last_result=result,
            last_message=message,
        )

    message = "The portal was not available until 30 minutes after the time."
    stage.scheduled.starts = [
        start("weekdays", "ubuntu-desktop", DAYS[:5], "Started"),
        start("monday", "qgis", ("MON",), "Missed", message),
        start("weekend", "blender", DAYS[5:], ""),
    ]


def _node(name: str, gpus: int, *, cordoned: bool = False) -> dict[str, Any]:
    there = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": {"unschedulable": cordoned},
        "status": {"capacity": there, "allocatable": there},
    }


def _past(stage: PortalStage, now: datetime) -> None:
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
        gpus = 0 if template == "firefox" else 1
        one = RunRow(uid=uid, start=created + timedelta(seconds=1), gpus=gpus, ended=ended, end_reason=reason, **run)
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
    chance = random.Random(11)
    for hour in range(7 * 24):
        at = now - timedelta(hours=hour)
        office = 7 <= at.hour <= 17 and at.weekday() < 5
        for _ in range(chance.randint(2, 5) if office else chance.randint(0, 1)):
            start = at - timedelta(minutes=chance.randint(0, 59))
            ended = start + timedelta(hours=chance.uniform(2, 8))
            waited = chance.uniform(30, 1500) if office and chance.random() < 0.3 else None
            run = RunTimes(
                start=start, ended=ended, gpus=1, queue_seconds=waited, startup_seconds=chance.uniform(1.5, 6)
            )
            if ended < now:
                stage.history.runs.append(run)
    for session in stage.world.sessions.values():
        if session.status.phase in ("Running", "Creating"):
            gpus = gpus_of(session, stage.world.template(session.spec.template))
            start = parse_time(session.status.start_time)
            stage.history.runs.append(RunTimes(start=start, gpus=gpus, startup_seconds=chance.uniform(1.5, 6)))
    month = f"{now:%Y-%m}"
    alice = Usage(
        name="alice@example.com",
        month=month,
        sessions=6,
        runs=6,
        hours=35.2,
        gpu_hours=34.5,
        queued=3,
        median_queue_seconds=260.0,
        median_startup_seconds=2.9,
    )
    stage.history.templates = {
        "ubuntu-desktop": 402.5,
        "blender": 231.0,
        "pytorch": 160.2,
        "qgis": 74.1,
        "firefox": 40.3,
    }
    stage.history.report = [alice] + [
        Usage(
            name=f"{who}@example.com",
            month=month,
            sessions=20 - number,
            runs=24 - number,
            hours=96.4 - 5.3 * number,
            gpu_hours=92.8 - 5.3 * number,
            queued=8 - number // 2,
            median_queue_seconds=330.0 - 20 * number,
            median_startup_seconds=2.3 + number / 5,
        )
        for number, who in enumerate(_PEOPLE)
    ]


def _audit(stage: PortalStage, now: datetime) -> None:
    rows: tuple[tuple[str, str, str, str, dict[str, str], str], ...] = (
        ("alice@example.com", "session.start", "alice-maps", "done", {"template": "qgis"}, ""),
        (
            "alice@example.com",
            "session.share",
            "alice-ubuntu",
            "done",
            {"user": "bob@example.com", "role": "viewer"},
            "",
        ),
        ("bob@example.com", "session.start", "bob-third", "OverLimit", {"template": "blender"}, ""),
        ("root@example.com", "session.end", "trent-old", "done", {}, "trent@example.com"),
        ("mallory@example.com", "login.begin", "mallory@example.com", "refused", {"how": "password"}, ""),
        ("carol@example.com", "login.begin", "carol@example.com", "done", {"how": "oidc"}, ""),
    )
    stage.audit.rows = [
        Entry(100 - n, now - timedelta(minutes=7 * n), actor, "203.0.113.7", action, target, "", owner, outcome, detail)
        for n, (actor, action, target, outcome, detail, owner) in enumerate(rows)
    ]


def _doctor(stage: PortalStage, now: datetime) -> None:
    cause = Finding(
        code="gpu_config_not_read",
        severity=Severity.ERROR,
        object="node/gpu-node-4",
        message="gpu-node-4 advertises 1 GPU where time-slicing-config says 8: its device plugin has not read it.",
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
    summary = "Checked 67 sessions and 5 nodes: 1 error, 1 unknown, and 1 consequence."
    groups = (Group(cause, (follows,)), Group(unknown, ()))
    stage.services.doctor.last = Report(now - timedelta(minutes=3), summary, groups, unknown=1)


START = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
"""When the pictures are taken, as far as the portal knows."""
