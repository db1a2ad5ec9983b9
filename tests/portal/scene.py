"""The scene of the documentation's pictures, as data: a made-up company on a Friday at noon.

`portal_world.furnish` puts it into a portal. `tests/unit/gateway/test_portal_scene.py` holds that its numbers add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Any

from vdi.cluster.units import format_time
from vdi.findings.model import Finding, Remedy, Severity
from vdi.findings.render import count_findings
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.rights import User
from vdi.gateway.store.history import EndReason, RunRow

# When the pictures are taken, as far as portal and browser know.
START = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
DOMAIN = "example.com"
HOME_GIB = 10

USERS = {
    user.email.partition("@")[0]: user
    for user in (
        User("alice@example.com", "Alice Archer", frozenset({"design"}), login_id="login-alice"),
        User("bob@example.com", "Bob Baker", frozenset({"design"})),
        User("carol@example.com", "Carol Cruz", frozenset({"research"})),
        User("dave@example.com", "Dave Dahl", frozenset({"design"})),
        User("erin@example.com", "Erin Evans", frozenset({"research"})),
        User("frank@example.com", "Frank Fischer", frozenset({"design"})),
        User("grace@example.com", "Grace Hill", frozenset({"staff"}), admin=True, login_id="login-grace"),
    )
}
LIMITS = Limits(
    default=Limit(sessions=3, gpus=2, hours=200.0, home_storage="60Gi"),
    groups={"research": Limit(gpu_hours=300.0)},
    users={"alice@example.com": Limit(sessions=5, gpus=4)},
)
# Of each node; the doctor says why the last one has so few.
GPU_SLOTS = {"gpu-node-1": 4, "gpu-node-2": 4, "gpu-node-3": 1}
CPU_NODES = ("cpu-node-1",)
NODES = (*GPU_SLOTS, *CPU_NODES)


@dataclass(frozen=True, kw_only=True)
class Template:
    """A kind of desktop."""

    title: str
    icon: str
    description: str
    gpu: int
    cpu: int
    memory_gib: int
    # What else the template says, without resources.
    spec: Mapping[str, Any] = field(default_factory=dict)
    # Maximums of its resources.
    most: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_home(self) -> bool:
        return bool(self.spec.get("persistence", {}).get("enabled", True))


TEMPLATES = {
    "ubuntu-desktop": Template(
        title="Ubuntu desktop",
        icon="desktop",
        description="A full Xfce desktop with browser, file manager and terminal. Good for nearly everything.",
        gpu=1,
        cpu=2,
        memory_gib=4,
        most={"maxGPU": 2, "maxMemory": "16Gi", "maxCPU": "8"},
        spec={"lifecycle": {"maxTimeout": "24h", "idleTimeout": "1h"}},
    ),
    "blender": Template(
        title="Blender studio",
        icon="model",
        description="Blender with Cycles on the GPU, and the shared library of models.",
        gpu=1,
        cpu=4,
        memory_gib=16,
        most={"maxMemory": "64Gi", "maxCPU": "16"},
        spec={"lifecycle": {"maxTimeout": "4h"}},
    ),
    "pytorch": Template(
        title="PyTorch workbench",
        icon="notebook",
        description="JupyterLab and an editor with CUDA, for training and for trying things out.",
        gpu=1,
        cpu=8,
        memory_gib=32,
        most={"maxGPU": 4},
        spec={"access": {"groups": ["research"], "users": ["alice@example.com"]}},
    ),
    "qgis": Template(
        title="QGIS",
        icon="map",
        description="Maps, with the layers of the department mounted read-only.",
        gpu=0,
        cpu=2,
        memory_gib=8,
    ),
    "office": Template(
        title="Office",
        icon="document",
        description="LibreOffice for texts, tables and presentations, with the fonts of the company.",
        gpu=0,
        cpu=2,
        memory_gib=4,
    ),
    "firefox": Template(
        title="Firefox",
        icon="browser",
        description="One browser and nothing else. Everything in it is forgotten when it ends.",
        gpu=0,
        cpu=1,
        memory_gib=2,
        spec={"persistence": {"enabled": False}},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Desktop:
    """A session as it is now."""

    name: str
    template: str
    phase: str
    # How long ago it was requested.
    since: timedelta
    # Its time limit.
    hours: int = 8
    node: str = ""
    # None: as many as its template gives.
    gpus: int | None = None
    # User, role, and for how many hours; 0: no end.
    guests: Sequence[tuple[str, str, int]] = ()
    queue: "Place | None" = None
    message: str = ""

    @property
    def owner(self) -> User:
        return USERS[self.name.partition("-")[0]]

    @property
    def gpu_count(self) -> int:
        return TEMPLATES[self.template].gpu if self.gpus is None else self.gpus

    @property
    def created(self) -> datetime:
        return START - self.since

    @property
    def started(self) -> datetime:
        return self.created + timedelta(seconds=1)

    @property
    def expires(self) -> datetime:
        return self.started + timedelta(hours=self.hours)

    @property
    def has_pod(self) -> bool:
        return self.phase in ("Running", "Creating")


@dataclass(frozen=True)
class Place:
    """Where a session stands in the queue."""

    position: int
    earliest: datetime


def _running(name: str, template: str, node: str, at: str, hours: int = 8, **rest: Any) -> Desktop:
    """A desktop that was requested today at that time, and runs."""
    since = START - datetime.combine(START, time.fromisoformat(at), UTC)
    return Desktop(name=name, template=template, phase="Running", since=since, hours=hours, node=node, **rest)


def _waiting(name: str, template: str, minutes: int, position: int, earliest: str, gpus: int = 1) -> Desktop:
    nodes = [node for node, slots in GPU_SLOTS.items() if slots >= gpus]
    named = f"{', '.join(nodes[:-1])} and {nodes[-1]}"
    slots = sum(GPU_SLOTS[node] for node in nodes)
    return Desktop(
        name=name,
        template=template,
        phase="Pending",
        since=timedelta(minutes=minutes),
        gpus=gpus,
        queue=Place(position, datetime.combine(START, time.fromisoformat(earliest), UTC)),
        message=(
            f"Waiting for capacity, number {position} in line: all {slots} nvidia.com/gpu on nodes {named} are in use. "
            f"Capacity is expected by {earliest} UTC."
        ),
    )


DESKTOPS = (
    _running(
        "alice-ubuntu",
        "ubuntu-desktop",
        "gpu-node-1",
        "09:04",
        guests=[("bob", "viewer", 2), ("carol", "collaborator", 0)],
    ),
    _running("alice-render", "blender", "gpu-node-1", "08:06", 4),
    _running("bob-review", "blender", "gpu-node-1", "09:31", 4, guests=[("alice", "viewer", 6)]),
    _running("carol-pair", "ubuntu-desktop", "gpu-node-1", "08:47", guests=[("alice", "collaborator", 0)]),
    _running("carol-model", "pytorch", "gpu-node-2", "08:22", 4),
    _running("dave-gearbox", "blender", "gpu-node-2", "08:27", 4),
    _running("dave-ubuntu", "ubuntu-desktop", "gpu-node-2", "10:15"),
    _running("erin-training", "pytorch", "gpu-node-2", "07:58", 12),
    _running("frank-animation", "blender", "gpu-node-3", "09:12", 4),
    _running("dave-report", "office", "cpu-node-1", "09:50"),
    _running("erin-web", "firefox", "cpu-node-1", "11:20"),
    _waiting("bob-ubuntu", "ubuntu-desktop", 14, 1, "12:06"),
    _waiting("alice-training", "pytorch", 6, 2, "12:27", gpus=2),
    _waiting("frank-ubuntu", "ubuntu-desktop", 1, 3, "12:22"),
    Desktop(
        name="alice-maps",
        template="qgis",
        phase="Creating",
        since=timedelta(seconds=9),
        node="cpu-node-1",
        message="The image is being pulled.",
    ),
    Desktop(name="alice-web", template="firefox", phase="Suspended", since=timedelta(days=2, hours=3)),
    Desktop(name="carol-maps", template="qgis", phase="Suspended", since=timedelta(days=1, hours=2)),
    Desktop(name="frank-letter", template="office", phase="Suspended", since=timedelta(days=3, hours=1)),
)
EXPIRING = "alice-render"
EXPIRING_MESSAGE = "After 4h this desktop ends at 12:06 UTC."


@dataclass(frozen=True)
class Pool:
    """Desktops that are kept ready."""

    template: str
    ready: int
    desired: int
    message: str = ""


POOLS = (
    Pool("firefox", 3, 3),
    Pool("ubuntu-desktop", 0, 2, f"All {sum(GPU_SLOTS.values())} nvidia.com/gpu are in use."),
)


@dataclass(frozen=True)
class Habit:
    """A desktop that somebody has on some days of each week."""

    name: str
    template: str
    days: str
    begin: str
    hours: float
    end: EndReason = EndReason.USER
    gpus: int | None = None

    @property
    def owner(self) -> User:
        return USERS[self.name.partition("-")[0]]

    @property
    def gpu_count(self) -> int:
        return TEMPLATES[self.template].gpu if self.gpus is None else self.gpus


_WEEK = "Mon Tue Wed Thu Fri"
_HABITS = (
    Habit("alice-ubuntu", "ubuntu-desktop", _WEEK, "08:40", 7.4),
    Habit("alice-render", "blender", _WEEK, "11:40", 4.0, EndReason.TIMEOUT),
    Habit("alice-training", "pytorch", "Tue Thu", "17:40", 5.5, EndReason.USER, 2),
    Habit("alice-web", "firefox", "Tue Wed", "11:10", 0.7),
    Habit("bob-review", "blender", _WEEK, "08:20", 4.0, EndReason.TIMEOUT),
    Habit("bob-ubuntu", "ubuntu-desktop", _WEEK, "11:30", 3.6),
    Habit("carol-pair", "ubuntu-desktop", _WEEK, "09:00", 7.1, EndReason.IDLE),
    Habit("carol-model", "pytorch", _WEEK, "10:50", 3.6),
    Habit("dave-gearbox", "blender", _WEEK, "08:50", 4.0, EndReason.TIMEOUT),
    Habit("dave-ubuntu", "ubuntu-desktop", _WEEK, "10:20", 4.3),
    Habit("dave-report", "office", "Mon Wed", "14:00", 2.2),
    Habit("erin-training", "pytorch", "Mon Tue Wed Thu", "19:20", 11.0),
    Habit("erin-ubuntu", "ubuntu-desktop", "Mon Tue Wed Thu", "09:30", 5.2, EndReason.IDLE),
    Habit("erin-web", "firefox", "Mon Thu", "10:30", 1.4),
    Habit("frank-animation", "blender", _WEEK, "09:40", 4.0, EndReason.TIMEOUT),
    Habit("frank-letter", "office", "Mon Tue", "13:20", 1.8),
    Habit("frank-ubuntu", "ubuntu-desktop", "Mon Wed Thu", "12:10", 3.1),
    Habit("frank-ubuntu", "ubuntu-desktop", "Sat", "10:00", 4.2),
)


@dataclass(frozen=True)
class PastDesktop:
    """A session with its one run, which is without an end if the session is still there."""

    name: str
    owner: User
    template: str
    run: RunRow


@cache
def past_desktops() -> Sequence[PastDesktop]:
    """Everything that has run this month, until START. Who found all GPU slots in use has waited for the next one."""
    first = START.replace(day=1, hour=0, minute=0)
    requests = sorted(
        (datetime.combine(day, time.fromisoformat(habit.begin), UTC) + timedelta(minutes=change), place, change)
        for day in (first + timedelta(days=number) for number in range(START.day - 1))
        for place, habit in enumerate(_HABITS)
        if f"{day:%a}" in habit.days
        for change in [(day.day * 7 + place * 5) % 20]
    )
    found: list[PastDesktop] = []
    for requested, place, change in requests:
        found.append(_past(_HABITS[place], requested, change, found))
    for place, desktop in enumerate(DESKTOPS):
        if desktop.phase == "Running":
            run = _run(desktop.name, desktop.template, desktop.started, desktop.gpu_count, place)
            found.append(PastDesktop(desktop.name, desktop.owner, desktop.template, run))
    return found


def slots_used(runs: Iterable[RunRow], at: datetime) -> int:
    """GPU slots that these runs have at that time."""
    return sum(run.gpus or 0 for run in runs if run.start <= at and (run.ended is None or at < run.ended))


def _past(habit: Habit, requested: datetime, change: int, before: Sequence[PastDesktop]) -> PastDesktop:
    """A desktop of one day; `change`, of 20, makes days differ."""
    runs = [past.run for past in before]
    ends = sorted(run.ended for run in runs if run.ended and run.ended > requested)
    free = sum(GPU_SLOTS.values()) - habit.gpu_count
    start = next(at for at in (requested, *ends) if not habit.gpu_count or slots_used(runs, at) <= free)
    hours = habit.hours if habit.end is EndReason.TIMEOUT else habit.hours * (1 - change / 60)
    run = _run(
        habit.name,
        habit.template,
        start,
        habit.gpu_count,
        change,
        ended=start + timedelta(hours=hours),
        end_reason=habit.end,
        queue_seconds=(start - requested).total_seconds() or None,
    )
    return PastDesktop(habit.name, habit.owner, habit.template, run)


def _run(name: str, template: str, start: datetime, gpus: int, change: int, **rest: Any) -> RunRow:
    kind = TEMPLATES[template]
    startup = 1.7 + kind.memory_gib / 16 + change / 12
    return RunRow(
        uid=f"uid-{name}-{start:%m%d%H%M}",
        start=start,
        ready=start + timedelta(seconds=startup),
        gpus=gpus,
        cpu=float(kind.cpu),
        memory_gib=float(kind.memory_gib),
        startup_seconds=startup,
        **rest,
    )


def homes() -> list[tuple[User, str]]:
    """User and template of each home: one per template that somebody has started and that keeps files."""
    started = {(past.owner.email, past.template) for past in past_desktops() if TEMPLATES[past.template].has_home}
    by_email = {user.email: user for user in USERS.values()}
    return [(by_email[email], template) for email, template in sorted(started)]


@dataclass(frozen=True)
class AuditEntry:
    """An entry of the audit."""

    minutes_ago: int
    actor: str
    action: str
    target: str
    outcome: str = "done"
    detail: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""


AUDIT = (
    AuditEntry(0, "alice@example.com", "session.start", "alice-maps", detail={"template": "qgis"}),
    AuditEntry(1, "frank@example.com", "session.start", "frank-ubuntu", detail={"template": "ubuntu-desktop"}),
    AuditEntry(4, "dave@example.com", "session.start", "dave-maps", "OverLimit", {"template": "qgis"}),
    AuditEntry(6, "alice@example.com", "session.start", "alice-training", detail={"template": "pytorch", "gpu": "2"}),
    AuditEntry(14, "bob@example.com", "session.start", "bob-ubuntu", detail={"template": "ubuntu-desktop"}),
    AuditEntry(
        21,
        "alice@example.com",
        "session.share",
        "alice-ubuntu",
        detail={"user": "bob@example.com", "role": "viewer"},
    ),
    AuditEntry(42, "erin@example.com", "session.start", "erin-web", detail={"template": "firefox"}),
    AuditEntry(58, "grace@example.com", "session.end", "carol-old", owner="carol@example.com"),
    AuditEntry(75, "mallory@example.com", "login.begin", "mallory@example.com", "refused", {"how": "password"}),
    AuditEntry(107, "dave@example.com", "session.start", "dave-ubuntu", detail={"template": "ubuntu-desktop"}),
    AuditEntry(176, "alice@example.com", "login.begin", "alice@example.com", detail={"how": "oidc"}),
)

_PLUGIN = "nvidia-device-plugin-daemonset"
_CAUSE = Finding(
    code="gpu_config_not_read",
    severity=Severity.ERROR,
    object=f"daemonset/gpu-operator/{_PLUGIN}",
    message="Its pods have not read the last change of ConfigMap time-slicing-config.",
    evidence=(f"older than the change: {_PLUGIN}-x7k2p",),
    remedy=Remedy.run(f"kubectl --namespace gpu-operator rollout restart daemonset {_PLUGIN}"),
)
_CAPACITY = Finding(
    code="gpu_capacity_wrong",
    severity=Severity.ERROR,
    object="node/gpu-node-3",
    message="It advertises 1 nvidia.com/gpu instead of 4.",
    evidence=("1 GPUs x 4 (ConfigMap time-slicing-config)",),
    caused_by=_CAUSE.key,
)
_SHORT = tuple(
    Finding(
        code="gpu_insufficient",
        severity=Severity.WARNING,
        object=f"vdisession/vdi-sessions/{desktop.name}",
        message=desktop.message,
        remedy=Remedy("End or suspend a desktop.", ("vdi gpu status", "vdi session ls")),
        caused_by=_CAUSE.key,
    )
    for desktop in DESKTOPS
    if desktop.queue
)
FINDINGS = (_CAUSE, _CAPACITY, *_SHORT)
DOCTOR_SUMMARY = f"Checked {len(DESKTOPS)} sessions and {len(NODES)} nodes: {count_findings(FINDINGS)}."


def text_of(moment: datetime | None) -> str:
    """A time as objects of Kubernetes have it; empty: none."""
    return format_time(moment) if moment else ""
