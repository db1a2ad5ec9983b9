"""Types and reasons of a session's conditions: constants of the API, so never renamed."""

TEMPLATE_FOUND = "TemplateFound"
ADMITTED = "Admitted"
HOME_BOUND = "HomeBound"
POD_READY = "PodReady"
ROUTE_READY = "RouteReady"
READY = "Ready"

CONDITION_TYPES = (TEMPLATE_FOUND, ADMITTED, HOME_BOUND, POD_READY, ROUTE_READY, READY)
"""In the order in which a start passes them."""

EXPIRING = "Expiring"
IDLE = "Idle"
DRAINING = "Draining"
WARNING_TYPES = (EXPIRING, IDLE, DRAINING)
"""Warnings: they are there, and True, only while they hold."""


class Phase:
    """Values of `status.phase` that the operator sets (A4)."""

    PENDING = "Pending"
    CREATING = "Creating"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"
    FAILED = "Failed"


class Reason:
    """Reasons of conditions, by condition."""

    # TemplateFound
    FOUND = "Found"
    NEWER_REVISION = "NewerRevision"
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    # Admitted
    ADMITTED = "Admitted"
    OVER_LIMIT = "OverLimit"
    INVALID_TEMPLATE = "InvalidTemplate"
    INVALID_SESSION = "InvalidSession"
    HOME_IN_USE = "HomeInUse"
    HOST_TAKEN = "HostTaken"
    NAME_TAKEN = "NameTaken"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY = "PodSecurity"
    REFUSED = "Refused"
    CLAIMED_FROM_POOL = "ClaimedFromPool"
    SUSPENDED = "Suspended"
    # Admitted: there is no room now, and the session waits in the queue
    GPUS_BUSY = "GPUsBusy"
    CPU_BUSY = "CPUBusy"
    MEMORY_BUSY = "MemoryBusy"
    PODS_BUSY = "PodsBusy"
    NO_GPUS = "NoGPUs"
    TOO_LARGE = "TooLarge"
    NO_MATCHING_NODE = "NoMatchingNode"
    NODES_UNAVAILABLE = "NodesUnavailable"
    HOME_NODE_FULL = "HomeNodeFull"
    HOME_NODE_GONE = "HomeNodeGone"
    RESERVED = "Reserved"
    # HomeBound
    BOUND = "Bound"
    NO_HOME = "NoHome"
    HOME_PENDING = "HomePending"
    HOME_LOST = "HomeLost"
    HOME_LEAVING = "HomeLeaving"
    NOT_CREATED = "NotCreated"
    # PodReady: the codes of `explain` besides these
    POD_READY = "PodReady"
    POD_STOPPING = "PodStopping"
    RESTARTING = "Restarting"
    NODE_LOST = "NodeLost"
    SCHEDULER_LATE = "SchedulerLate"
    POD_DELETED = "PodDeleted"
    # RouteReady
    ROUTED = "Routed"
    # Ready
    RUNNING = "Running"
    STARTING = "Starting"
    STOPPING = "Stopping"
    TIMED_OUT = "TimedOut"
    IDLE_TOO_LONG = "IdleTooLong"
    # Warnings
    EXPIRING_SOON = "ExpiringSoon"
    IDLE = "Idle"
    NODE_CORDONED = "NodeCordoned"


QUEUE_REASONS = frozenset(
    {
        Reason.GPUS_BUSY,
        Reason.CPU_BUSY,
        Reason.MEMORY_BUSY,
        Reason.PODS_BUSY,
        Reason.NO_GPUS,
        Reason.TOO_LARGE,
        Reason.NO_MATCHING_NODE,
        Reason.NODES_UNAVAILABLE,
        Reason.HOME_NODE_FULL,
        Reason.HOME_NODE_GONE,
        Reason.RESERVED,
    }
)
"""Reasons of Admitted=False of a session that stands in the queue."""
