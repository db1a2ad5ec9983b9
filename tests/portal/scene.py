"""A made-up company on a Friday at noon, put into a portal: for browser tests and the
documentation's pictures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any

import msgspec

from unit.gateway.portal_stage import PortalStage, a_session, a_template
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.cluster.units import format_time
from vdi.findings.model import Finding, Remedy, Severity
from vdi.findings.render import count_findings
from vdi.gateway.doctor import Report
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.rights import User
from vdi.gateway.store.history import EndReason, RunRow, SessionRow
from vdi.session.homes import HomeClaim
from vdi.session.naming import TEMPLATE_ANNOTATION, USER_ANNOTATION, home_claim_name

# When the pictures are taken, by the clocks of portal and browser.
START = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
USERS = {
    user.email.partition("@")[0]: user
    for user in (
        User("alice@example.com", "Alice Archer", frozenset({"design"}), login_id="login-alice"),
        User("bob@example.com", "Bob Baker", frozenset({"design"})),
        User("carol@example.com", "Carol Cruz", frozenset({"research"})),
        User("dave@example.com", "Dave Dahl", frozenset({"design"})),
        User("erin@example.com", "Erin Evans", frozenset({"research"})),
        User("frank@example.com", "Frank Fischer", frozenset({"design"})),
        User(
            "grace@example.com",
            "Grace Hill",
            frozenset({"staff"}),
            admin=True,
            login_id="login-grace",
        ),
    )
}
LIMITS = Limits(
    default=Limit(sessions=3, gpus=2, hours=200.0, home_storage="60Gi"),
    groups={"research": Limit(gpu_hours=300.0)},
    users={"alice@example.com": Limit(sessions=5, gpus=4)},
)
# GPU slots by node; the doctor says why gpu-node-3 has so few.
_NODES = {"gpu-node-1": 4, "gpu-node-2": 4, "gpu-node-3": 1, "cpu-node-1": 0}
_EXPIRING = {"type": "Expiring", "status": "True", "reason": "ExpiringSoon"}
_POOLS = {
    "firefox": (3, 3, ""),
    "ubuntu-desktop": (0, 2, f"All {sum(_NODES.values())} nvidia.com/gpu are in use."),
}
_CROWD = ("heidi", "ivan", "judy", "niaj", "olivia", "rupert", "sybil", "trent")
# Desktops that people had on some days of each week of this month: name, template, days, begin,
# hours, end.
_WEEK = "Mon Tue Wed Thu Fri"
_HABITS = (
    ("alice-ubuntu", "ubuntu-desktop", _WEEK, "08:40", 7.4, EndReason.USER),
    ("alice-render", "blender", "Mon Wed Fri", "13:10", 4.0, EndReason.TIMEOUT),
    ("alice-web", "firefox", "Tue Wed", "11:10", 0.7, EndReason.USER),
    ("bob-review", "blender", _WEEK, "08:20", 4.0, EndReason.TIMEOUT),
    ("bob-ubuntu", "ubuntu-desktop", _WEEK, "13:30", 3.6, EndReason.USER),
    ("carol-pair", "ubuntu-desktop", _WEEK, "09:00", 7.1, EndReason.IDLE),
    ("carol-model", "pytorch", "Tue Thu", "10:50", 3.6, EndReason.USER),
    ("dave-gearbox", "blender", _WEEK, "08:50", 4.0, EndReason.TIMEOUT),
    ("dave-report", "office", "Mon Wed", "14:00", 2.2, EndReason.USER),
    ("erin-training", "pytorch", "Mon Tue Wed Thu", "19:20", 11.0, EndReason.USER),
    ("erin-ubuntu", "ubuntu-desktop", "Mon Tue Wed Thu", "09:30", 5.2, EndReason.IDLE),
    ("erin-web", "firefox", "Mon Thu", "10:30", 1.4, EndReason.USER),
    ("frank-animation", "blender", "Tue Wed Thu", "09:40", 4.0, EndReason.TIMEOUT),
    ("frank-ubuntu", "ubuntu-desktop", "Sat", "10:00", 4.2, EndReason.USER),
)
# Entries of the audit log, newest first: minutes ago, user, action, target, further columns.
AUDIT: tuple[tuple[int, str, str, str, dict[str, Any]], ...] = (
    (0, "alice", "session.start", "alice-maps", {"detail": {"template": "qgis"}}),
    (1, "frank", "session.start", "frank-ubuntu", {"detail": {"template": "ubuntu-desktop"}}),
    (4, "dave", "session.start", "dave-maps", {"outcome": "OverLimit", "detail": {"template": "qgis"}}),
    (6, "alice", "session.start", "alice-training",
     {"target_owner": "alice@example.com", "detail": {"template": "pytorch", "gpu": "2"}}),
    (14, "bob", "session.start", "bob-ubuntu", {"detail": {"template": "ubuntu-desktop"}}),
    (21, "alice", "session.share", "alice-ubuntu", {"detail": {"user": "bob@example.com", "role": "viewer"}}),
    (42, "erin", "session.start", "erin-web", {"detail": {"template": "firefox"}}),
    (58, "grace", "session.end", "carol-old", {"target_owner": "carol@example.com"}),
    (75, "mallory", "login.begin", "mallory@example.com", {"outcome": "refused", "detail": {"how": "password"}}),
    (107, "dave", "session.start", "dave-ubuntu", {"detail": {"template": "ubuntu-desktop"}}),
    (176, "alice", "login.begin", "alice@example.com", {"detail": {"how": "oidc"}}),
)  # fmt: skip
_PLUGIN = "nvidia-device-plugin-daemonset"
_CAUSE = Finding(
    code="gpu_config_not_read",
    severity=Severity.ERROR,
    object=f"daemonset/gpu-operator/{_PLUGIN}",
    message="Its pods have not read the last change of ConfigMap time-slicing-config.",
    evidence=(f"older than the change: {_PLUGIN}-x7k2p",),
    remedy=Remedy.run(f"kubectl --namespace gpu-operator rollout restart daemonset {_PLUGIN}"),
)
_ENTRIES: tuple[tuple[str, str, int, int], ...] = (
    ("Desktop", "folder", 0, 3), ("Documents", "folder", 0, 50), ("Pictures", "folder", 0, 800),
    ("bridge-model-of-the-new-crossing-with-a-long-name-v12.blend", "file", 204_800_000, 1),
    ("measurements.csv", "file", 195_312, 26), ("notes.md", "file", 840, 30), ("shared", "other", 0, 400),
)  # fmt: skip
_FOLDER = {
    "entries": [
        {
            "name": name,
            "kind": kind,
            "sizeBytes": size,
            "modified": int((START - timedelta(hours=hours)).timestamp()),
        }
        for name, kind, size, hours in _ENTRIES
    ],
    "isCut": False,
    "usedBytes": 7_400_000_000,
    "sizeBytes": 10_700_000_000,
}
_SCRIPTS = (
    {
        "source": "template",
        "state": "Ended",
        "exitCode": 0,
        "output": "The licence server answers.\n",
    },
    {
        "source": "user",
        "state": "Ended",
        "exitCode": 127,
        "output": "linking a file with a long name\n" * 60,
    },
)


def _kind(
    title: str, icon: str, gpu: int, cpu: int, gib: int, description: str, **spec: Any
) -> dict[str, Any]:
    size = {"defaultGPU": gpu, "defaultCPU": str(cpu), "defaultMemory": f"{gib}Gi"} | spec.pop(
        "most", {}
    )
    return {
        "displayName": title,
        "icon": icon,
        "description": description,
        "resources": size,
        **spec,
    }


_TEMPLATES = {
    "ubuntu-desktop": _kind(
        "Ubuntu desktop", "desktop", 1, 2, 4,
        "A full Xfce desktop with browser, file manager and terminal. Good for nearly everything.",
        most={"maxGPU": 2, "maxMemory": "16Gi", "maxCPU": "8"}, lifecycle={"maxTimeout": "24h", "idleTimeout": "1h"},
    ),
    "blender": _kind(
        "Blender studio", "model", 1, 4, 16, "Blender with Cycles on the GPU, and the shared library of models.",
        most={"maxMemory": "64Gi", "maxCPU": "16"}, lifecycle={"maxTimeout": "4h"},
    ),
    "pytorch": _kind(
        "PyTorch workbench", "notebook", 1, 8, 32,
        "JupyterLab and an editor with CUDA, for training and for trying things out.",
        most={"maxGPU": 4}, access={"groups": ["research"], "users": ["alice@example.com"]},
    ),
    "qgis": _kind("QGIS", "map", 0, 2, 8, "Maps, with the layers of the department mounted read-only."),
    "office": _kind(
        "Office", "document", 0, 2, 4,
        "LibreOffice for texts, tables and presentations, with the fonts of the company.",
    ),
    "firefox": _kind(
        "Firefox", "browser", 0, 1, 2, "One browser and nothing else. Everything in it is forgotten when it ends.",
        persistence={"enabled": False},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Desktop:
    """A session as it is now; its owner is the first part of its name."""

    name: str
    template: str
    phase: str = "Running"
    node: str = ""
    # When it was requested, as today's time of day, and its time limit in hours.
    at: str = "09:00"
    days_ago: int = 0
    hours: int = 8
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def user(self) -> str:
        return USERS[self.name.partition("-")[0]].email

    @property
    def created(self) -> datetime:
        return datetime.combine(START, time.fromisoformat(self.at), UTC) - timedelta(
            days=self.days_ago
        )


def _waiting(
    name: str, template: str, at: str, position: int, earliest: str, gpus: int = 1
) -> _Desktop:
    nodes = [node for node, slots in _NODES.items() if slots >= gpus]
    message = (
        f"Waiting for capacity, number {position} in line: all"
        f" {sum(_NODES[node] for node in nodes)} nvidia.com/gpu on nodes {', '.join(nodes[:-1])}"
        f" and {nodes[-1]} are in use. Capacity is expected by {earliest} UTC."
    )
    conditions = [
        {"type": "TemplateFound", "status": "True", "reason": "Found"},
        {"type": "Admitted", "status": "False", "reason": "GPUsBusy", "message": message},
    ]
    queue = {"position": position, "reason": "GPUsBusy", "earliestSlot": earliest}
    spec = {
        "resources": {"gpu": gpus, "memory": _TEMPLATES[template]["resources"]["defaultMemory"]}
    }
    status = {"message": message, "queue": queue, "conditions": conditions}
    return _Desktop(name, template, "Pending", at=at, spec=spec, status=status)


def _guest(name: str, role: str, hours: int = 0) -> dict[str, Any]:
    return {"user": f"{name}@example.com", "role": role} | ({"hours": hours} if hours else {})


_DESKTOPS = (
    _Desktop("alice-ubuntu", "ubuntu-desktop", node="gpu-node-1", at="09:04",
             spec={"access": [_guest("bob", "viewer", 2), _guest("carol", "collaborator")]}),
    _Desktop("alice-render", "blender", node="gpu-node-1", at="08:06", hours=4,
             status={"conditions": [_EXPIRING | {"message": "After 4h this desktop ends at 12:06 UTC."}]}),
    _Desktop("bob-review", "blender", node="gpu-node-1", at="09:31", hours=4,
             spec={"access": [_guest("alice", "viewer", 6)]}),
    _Desktop("carol-pair", "ubuntu-desktop", node="gpu-node-1", at="08:47",
             spec={"access": [_guest("alice", "collaborator")]}),
    _Desktop("carol-model", "pytorch", node="gpu-node-2", at="08:22", hours=4),
    _Desktop("dave-gearbox", "blender", node="gpu-node-2", at="08:27", hours=4),
    _Desktop("dave-ubuntu", "ubuntu-desktop", node="gpu-node-2", at="10:15"),
    _Desktop("erin-training", "pytorch", node="gpu-node-2", at="07:58", hours=12),
    _Desktop("frank-animation", "blender", node="gpu-node-3", at="09:12", hours=4),
    _Desktop("dave-report", "office", node="cpu-node-1", at="09:50"),
    _Desktop("erin-web", "firefox", node="cpu-node-1", at="11:20"),
    _waiting("bob-ubuntu", "ubuntu-desktop", "11:48", 1, "12:06"),
    _waiting("alice-training", "pytorch", "11:56", 2, "12:27", gpus=2),
    _waiting("frank-ubuntu", "ubuntu-desktop", "12:01", 3, "12:22"),
    _Desktop("alice-maps", "qgis", "Creating", "cpu-node-1", "12:01", status={"message": "The image is being pulled."}),
    _Desktop("alice-web", "firefox", "Suspended", at="09:02", days_ago=2),
    _Desktop("carol-maps", "qgis", "Suspended", at="10:02", days_ago=1),
    _Desktop("frank-letter", "office", "Suspended", at="11:02", days_ago=3),
)  # fmt: skip
_FINDINGS = (
    _CAUSE,
    Finding(
        code="gpu_capacity_wrong",
        severity=Severity.ERROR,
        object="node/gpu-node-3",
        message="It advertises 1 nvidia.com/gpu instead of 4.",
        evidence=("1 GPUs x 4 (ConfigMap time-slicing-config)",),
        caused_by=_CAUSE.key,
    ),
    *(
        Finding(
            code="gpu_insufficient",
            severity=Severity.WARNING,
            object=f"vdisession/vdi-sessions/{desktop.name}",
            message=desktop.status["message"],
            remedy=Remedy("End or suspend a desktop.", ("vdi gpu status", "vdi session ls")),
            caused_by=_CAUSE.key,
        )
        for desktop in _DESKTOPS
        if desktop.phase == "Pending"
    ),
)


def furnish(stage: PortalStage, *, crowd: int = 0) -> None:
    """Put the scene into the stage, moved to the time of its clock, and `crowd` suspended and
    failed desktops more.
    """
    moved = stage.clock.wall - START
    stage.put(*(a_template(name, **spec) for name, spec in _TEMPLATES.items()), *map(_pool, _POOLS))
    stage.put(*(_session(stage, desktop, moved) for desktop in _DESKTOPS), *_crowd(stage, crowd))
    for name, slots in _NODES.items():
        offer = {"nvidia.com/gpu": str(slots)} if slots else {}
        status = {"capacity": offer, "allocatable": offer}
        stage.cluster.nodes.append(
            {"metadata": {"name": name, "labels": {}}, "spec": {}, "status": status}
        )
    for session, run in _past(moved):
        stage.remember(session, run)
    homes = {(f"{name.partition('-')[0]}@example.com", template) for name, template, *_ in _HABITS}
    for user, template in sorted(homes):
        if "persistence" not in _TEMPLATES[template]:
            stage.world.homes.observe(_home(user, template))
    for minutes, user, action, target, more in reversed(AUDIT):
        at = stage.clock.wall - timedelta(minutes=minutes)
        stage.enter_act(f"{user}@example.com", action, target, at=at, address="203.0.113.7", **more)
    stage.agent.folders["alice-ubuntu"] = msgspec.json.encode(_FOLDER)
    stage.agent.scripts["alice-render"] = msgspec.json.encode({"scripts": _SCRIPTS})
    summary = (
        f"Checked {len(_DESKTOPS)} sessions and {len(_NODES)} nodes: {count_findings(_FINDINGS)}."
    )
    stage.services.doctor.last = Report(stage.clock.wall - timedelta(minutes=3), summary, _FINDINGS)


def _session(stage: PortalStage, desktop: _Desktop, moved: timedelta) -> VDISession:
    created = desktop.created + moved
    status = {"phase": desktop.phase, "url": _url(stage, desktop.name)} | desktop.status
    spec: dict[str, Any] = {
        "timeout": f"{desktop.hours}h",
        "suspended": desktop.phase == "Suspended",
    } | desktop.spec
    if desktop.node:
        started = created + timedelta(seconds=1)
        times = {
            "startTime": format_time(started),
            "expiresAt": format_time(started + timedelta(hours=desktop.hours)),
        }
        status |= {"podName": desktop.name, "nodeName": desktop.node, **times}
        if "persistence" not in _TEMPLATES[desktop.template]:
            status["homeClaim"] = _claim_name(desktop.user, desktop.template)
    if queue := status.get("queue"):
        earliest = datetime.combine(START, time.fromisoformat(queue["earliestSlot"]), UTC) + moved
        status["queue"] = queue | {"earliestSlot": format_time(earliest)}
    access = [dict(guest) for guest in spec.pop("access", [])]
    for guest in access:
        if hours := guest.pop("hours", 0):
            guest["expires"] = format_time(START + moved + timedelta(hours=hours))
    names: dict[str, Any] = {
        "user": desktop.user,
        "template": desktop.template,
        "created": format_time(created),
    }
    return a_session(desktop.name, status=status, access=access, **names, **spec)


def _url(stage: PortalStage, name: str) -> str:
    return f"{stage.settings.url(stage.settings.host(name))}/"


def _crowd(stage: PortalStage, crowd: int) -> Iterable[VDISession]:
    """So many that lists have several pages."""
    for number in range(crowd):
        failed, who = number % 15 == 1, _CROWD[number % len(_CROWD)]
        message = "The image cannot be pulled: registry.example.com answers 403." if failed else ""
        name, phase = f"{who}-{number}", "Failed" if failed else "Suspended"
        status = {"phase": phase, "message": message, "url": _url(stage, name)}
        created = format_time(stage.clock.wall - timedelta(days=1, minutes=number))
        spec: dict[str, Any] = {
            "user": f"{who}@example.com",
            "template": "qgis",
            "suspended": not failed,
        }
        yield a_session(name, created=created, status=status, **spec)


def _pool(template: str) -> VDIPool:
    ready, replicas, message = _POOLS[template]
    status = {"ready": ready, "starting": 0, "claimed": 12, "message": message}
    spec = {"template": template, "replicas": replicas}
    return msgspec.convert(
        {"metadata": {"name": f"{template}-ready"}, "spec": spec, "status": status}, VDIPool
    )


def _claim_name(user: str, template: str) -> str:
    return home_claim_name(session_name="", user=user, template=template, retain=True)


def _home(user: str, template: str) -> HomeClaim:
    metadata = {
        "name": _claim_name(user, template),
        "namespace": "vdi-sessions",
        "uid": f"uid-home-{user}-{template}",
        "resourceVersion": "1",
        "creationTimestamp": format_time(START.replace(day=1)),
        "annotations": {USER_ANNOTATION: user, TEMPLATE_ANNOTATION: template},
    }
    size = {"storage": "10Gi"}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": size}}
    status = {"phase": "Bound", "capacity": size}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, HomeClaim)


def _past(moved: timedelta) -> Iterator[tuple[SessionRow, RunRow]]:
    """Sessions of this month with their runs: the habits of each day before today, and the desktops
    that run now.
    """
    for day in (START.replace(day=number) for number in range(1, START.day)):
        for place, (name, template, days, begin, hours, reason) in enumerate(_HABITS):
            if f"{day:%a}" in days:
                # Minutes, of 20, by which days differ.
                change = (day.day * 7 + place * 5) % 20
                start = datetime.combine(day, time.fromisoformat(begin), UTC) + timedelta(
                    minutes=change
                )
                length = timedelta(
                    hours=hours if reason is EndReason.TIMEOUT else hours * (1 - change / 60)
                )
                waited = 60.0 * change if change > 13 and place % 2 else None
                ends = {"ended": start + moved + length, "end_reason": reason}
                yield _run(
                    f"{name}-{day.day}",
                    name,
                    template,
                    start + moved,
                    change,
                    queue_seconds=waited,
                    **ends,
                )
    for place, desktop in enumerate(_DESKTOPS):
        if desktop.phase == "Running":
            yield _run(desktop.name, desktop.name, desktop.template, desktop.created + moved, place)


def _run(
    key: str, name: str, template: str, start: datetime, change: int, **rest: Any
) -> tuple[SessionRow, RunRow]:
    user, offer = f"{name.partition('-')[0]}@example.com", _TEMPLATES[template]["resources"]
    gib = float(offer["defaultMemory"][:-2])
    ended = rest.get("ended")
    reason = rest.get("end_reason")
    startup = 1.7 + gib / 16 + change / 12
    run = RunRow(
        uid=f"uid-{key}", start=start, ready=start + timedelta(seconds=startup), gpus=offer["defaultGPU"],
        cpu=float(offer["defaultCPU"]), memory_gib=gib, startup_seconds=startup, **rest,
    )  # fmt: skip
    created = start - timedelta(seconds=rest.get("queue_seconds") or 1)
    who = user if reason is EndReason.USER else ""
    session = SessionRow(
        uid=run.uid, name=name, namespace="vdi-sessions", owner=user, template=template, created=created, ended=ended,
        end_reason=reason, ended_by=who,
    )  # fmt: skip
    return session, run
