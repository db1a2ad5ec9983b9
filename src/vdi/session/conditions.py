"""Types and reasons of the conditions of sessions, templates and pools: constants of the API, so
never renamed.

Reasons of pods that are not ready are in `vdi.cluster.reasons`.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Self

from vdi.api.meta import Condition, find_condition
from vdi.cluster.units import format_time

TEMPLATE_FOUND = "TemplateFound"
ADMITTED = "Admitted"
HOME_BOUND = "HomeBound"
POD_READY = "PodReady"
ROUTE_READY = "RouteReady"
READY = "Ready"

# In the order in which a start passes them.
CONDITION_TYPES = (TEMPLATE_FOUND, ADMITTED, HOME_BOUND, POD_READY, ROUTE_READY, READY)

EXPIRING = "Expiring"
IDLE = "Idle"
DRAINING = "Draining"
CLOSING = "Closing"
PLANNED_END = "PlannedEnd"
RESIZE_PENDING = "ResizePending"
OUT_OF_MEMORY = "OutOfMemory"
END_TYPES = (PLANNED_END, EXPIRING, CLOSING, IDLE, DRAINING)
# Warnings. They are present, and True, only while they hold.
WARNING_TYPES = (*END_TYPES, RESIZE_PENDING, OUT_OF_MEMORY)


class ReasonKind(Enum):
    """The meaning of a reason to code that acts on reasons."""

    # For people only: code reads the status of the condition.
    STATE = auto()
    # In the queue: passes when another desktop ends.
    BUSY = auto()
    # In the queue for another reason, which may pass.
    QUEUED = auto()
    # In the queue, and the end of no desktop helps: the cluster, the template or the session has to
    # change.
    NO_NODE = auto()
    # Not in the queue; passes by itself, such as when another session ends.
    HELD_UP = auto()
    # Of Ready=False: the operator has ended the run.
    RUN_END = auto()


class Reason(StrEnum):
    """The value is the reason; `meaning` is for the API reference.

    A reason that code acts on has a `kind`. `session.failures` and `operator.status` act on some by
    name.
    """

    # Types of the conditions that have it.
    condition: str
    meaning: str
    kind: ReasonKind

    def __new__(
        cls, value: str, condition: str, meaning: str, kind: ReasonKind = ReasonKind.STATE
    ) -> Self:
        """A reason with its facts; the sets below follow from `kind`."""
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.condition, reason.meaning, reason.kind = condition, meaning, kind
        return reason

    FOUND = "Found", "TemplateFound", "The template exists."
    NEWER_REVISION = (
        "NewerRevision",
        "TemplateFound",
        "The template was changed after this run started; the change applies from the next run.",
    )
    TEMPLATE_NOT_FOUND = "TemplateNotFound", "TemplateFound", "The template does not exist."
    ADMITTED = "Admitted", "Admitted", "The session may start its desktop."
    OVER_LIMIT = "OverLimit", "Admitted", "The session requests more than its template allows."
    INVALID_TEMPLATE = (
        "InvalidTemplate",
        "Admitted",
        "The template has a value that cannot be used.",
    )
    INVALID_SESSION = "InvalidSession", "Admitted", "The session has a value that cannot be used."
    HOME_IN_USE = (
        "HomeInUse",
        "Admitted",
        "The home is in use by another session of this user or by a command that copies files.",
        ReasonKind.HELD_UP,
    )
    HOST_TAKEN = "HostTaken", "Admitted", "The host name is not available."
    NAME_TAKEN = (
        "NameTaken",
        "Admitted",
        (
            "An object with the name of a child belongs to someone else, or another namespace of"
            " the release has a session with this name."
        ),
    )
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "Admitted",
        "The namespace's ResourceQuota refuses the pod.",
        ReasonKind.HELD_UP,
    )
    POD_SECURITY = "PodSecurity", "Admitted", "The namespace's Pod Security level refuses the pod."
    REFUSED = "Refused", "Admitted", "The API server refuses one of the children."
    CLAIMED_FROM_POOL = "ClaimedFromPool", "Admitted", "The desktop comes from a pool."
    SUSPENDED = "Suspended", "Admitted, Ready", "The session is suspended."
    GPUS_BUSY = (
        "GPUsBusy",
        "Admitted: in the queue",
        "All suitable GPUs are in use.",
        ReasonKind.BUSY,
    )
    CPU_BUSY = "CPUBusy", "Admitted: in the queue", "No node has enough free CPU.", ReasonKind.BUSY
    MEMORY_BUSY = (
        "MemoryBusy",
        "Admitted: in the queue",
        "No node has enough free memory.",
        ReasonKind.BUSY,
    )
    EPHEMERAL_STORAGE_BUSY = (
        "EphemeralStorageBusy",
        "Admitted: in the queue",
        "No node has enough free local disk (ephemeral storage).",
        ReasonKind.BUSY,
    )
    PODS_BUSY = (
        "PodsBusy",
        "Admitted: in the queue",
        "Every node has the maximum number of pods.",
        ReasonKind.BUSY,
    )
    NO_GPUS = "NoGPUs", "Admitted: in the queue", "No node has a GPU.", ReasonKind.NO_NODE
    TOO_LARGE = (
        "TooLarge",
        "Admitted: in the queue",
        "The session requests more than any node has.",
        ReasonKind.NO_NODE,
    )
    NO_MATCHING_NODE = (
        "NoMatchingNode",
        "Admitted: in the queue",
        "No node has the labels and taints that the template requires.",
        ReasonKind.NO_NODE,
    )
    NODE_FEATURE_MISSING = (
        "NodeFeatureMissing",
        "Admitted: in the queue",
        "No suitable node has the user namespaces or image volumes that the template requires.",
        ReasonKind.NO_NODE,
    )
    NODES_UNAVAILABLE = (
        "NodesUnavailable",
        "Admitted: in the queue",
        "The suitable nodes are not ready or are cordoned.",
        ReasonKind.QUEUED,
    )
    HOME_NODE_FULL = (
        "HomeNodeFull",
        "Admitted: in the queue",
        "The node with the home volume is full.",
        ReasonKind.QUEUED,
    )
    HOME_NODE_GONE = (
        "HomeNodeGone",
        "Admitted: in the queue",
        "The node with the home volume no longer exists.",
        ReasonKind.NO_NODE,
    )
    RESERVED = (
        "Reserved",
        "Admitted: in the queue",
        "The free capacity is reserved for sessions that have waited longer.",
        ReasonKind.QUEUED,
    )
    BOUND = "Bound", "HomeBound", "The home volume is bound."
    NO_HOME = "NoHome", "HomeBound", "This desktop has no home volume."
    NOT_CREATED = "NotCreated", "HomeBound, PodReady, RouteReady", "The object does not exist yet."
    POD_READY = "PodReady", "PodReady", "The desktop responds."
    RESTARTING = "Restarting", "PodReady", "The desktop is being restarted."
    POD_DELETED = "PodDeleted", "PodReady", "Someone deleted the pod."
    ROUTED = "Routed", "RouteReady", "The route and its Service exist."
    RUNNING = "Running", "Ready", "The desktop can be opened."
    PENDING = "Pending", "Ready", "The session is waiting; its message has the reason."
    FAILED = (
        "Failed",
        "Ready",
        "The session cannot continue until someone makes a change; its message has the reason.",
    )
    STOPPING = "Stopping", "RouteReady, Ready", "The session is being deleted."
    TIMED_OUT = "TimedOut", "Ready", "The run has reached its timeout.", ReasonKind.RUN_END
    IDLE_TOO_LONG = (
        "IdleTooLong",
        "Ready",
        "The desktop was idle for longer than its idle timeout.",
        ReasonKind.RUN_END,
    )
    WORKING_HOURS_OVER = (
        "WorkingHoursOver",
        "Ready",
        "The working hours of the template ended.",
        ReasonKind.RUN_END,
    )
    ENDED_AS_PLANNED = (
        "EndedAsPlanned",
        "Ready",
        "The time of spec.plannedEnd has come.",
        ReasonKind.RUN_END,
    )
    END_PLANNED = "EndPlanned", "PlannedEnd", "spec.plannedEnd announces the end of the desktop."
    CLOSING_SOON = "ClosingSoon", "Closing", "The working hours of the template end soon."
    EXPIRING_SOON = "ExpiringSoon", "Expiring", "The run ends soon."
    IDLE = "Idle", "Idle", "The desktop is idle and will be suspended or ended soon."
    DEFERRED = (
        "Deferred",
        "ResizePending",
        "The new size waits for capacity, which no other desktop gets.",
    )
    INFEASIBLE = (
        "Infeasible",
        "ResizePending",
        "The new size is refused; the message has the reason.",
    )
    NEEDS_RESTART = (
        "NeedsRestart",
        "ResizePending",
        "The cluster resizes no running pod: the new size needs a restart.",
    )
    IN_USE = (
        "InUse",
        "ResizePending",
        "The desktop uses more memory than its new size: the size waits until it fits.",
    )
    NOT_APPLIED = (
        "NotApplied",
        "ResizePending",
        "The node fails to apply the new size; the message has the reason.",
    )
    DESKTOP_KILLED = (
        "DesktopKilled",
        "OutOfMemory",
        "The whole desktop was killed, and was started again in its pod.",
    )
    PROGRAM_KILLED = "ProgramKilled", "OutOfMemory", "One program was killed; the desktop goes on."
    NODE_CORDONED = "NodeCordoned", "Draining", "The node of the desktop is being drained."


def _of_kind(*kinds: ReasonKind) -> frozenset[Reason]:
    return frozenset(reason for reason in Reason if reason.kind in kinds)


# Reasons of Ready=False of a run that the operator has ended.
ENDED_BY_ITSELF = _of_kind(ReasonKind.RUN_END)
# Reasons of Admitted=False that the end of another desktop removes.
BUSY_REASONS = _of_kind(ReasonKind.BUSY)
# Reasons of Admitted=False of a session in the queue that the end of no desktop removes.
LASTING_QUEUE_REASONS = _of_kind(ReasonKind.NO_NODE)
# Reasons of Admitted=False of a session that stands in the queue.
QUEUE_REASONS = BUSY_REASONS | LASTING_QUEUE_REASONS | _of_kind(ReasonKind.QUEUED)
# Reasons of ResizePending with which the node applies the size by itself, once it can.
SIZE_WAITS = frozenset({Reason.DEFERRED, Reason.IN_USE, Reason.NOT_APPLIED})
# Reasons of Admitted=False that pass without anyone editing an object.
TEMPORARY_REASONS = QUEUE_REASONS | _of_kind(ReasonKind.HELD_UP)


def renew_condition(
    before: Iterable[Condition],
    kind: str,
    holds: bool,
    reason: str,
    message: str,
    now: datetime,
    generation: int = 0,
) -> Condition:
    """The condition in its new state. Its transition time moves only when the status flips, as
    Kubernetes asks.
    """
    status = "True" if holds else "False"
    known = find_condition(before, kind)
    kept = ""
    if known and known.status == status:
        kept = known.last_transition_time
    return Condition(kind, status, reason, message, kept or format_time(now), generation)
