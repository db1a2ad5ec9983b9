"""Types and reasons of a session's conditions: constants of the API, so never renamed."""

from enum import StrEnum
from typing import Self

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
CLOSING = "Closing"
WARNING_TYPES = (EXPIRING, CLOSING, IDLE, DRAINING)
"""Warnings: they are there, and True, only while they hold."""


class Reason(StrEnum):
    """Reasons of a session's conditions. The value is the reason; `meaning` is for the API reference.

    A kubelet may give a waiting container a reason that is not here; PodReady then has the kubelet's own.
    """

    condition: str
    """The conditions that have it."""
    meaning: str

    def __new__(cls, value: str, condition: str, meaning: str) -> Self:
        """One reason."""
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.condition, reason.meaning = condition, meaning
        return reason

    FOUND = "Found", "TemplateFound", "The template exists."
    NEWER_REVISION = (
        "NewerRevision",
        "TemplateFound",
        "The template was edited after this run started; the next run has the edit.",
    )
    TEMPLATE_NOT_FOUND = "TemplateNotFound", "TemplateFound", "There is no template of this name."
    ADMITTED = "Admitted", "Admitted", "The session may have its desktop."
    OVER_LIMIT = "OverLimit", "Admitted", "The session requests more than its template allows."
    INVALID_TEMPLATE = "InvalidTemplate", "Admitted", "The template has a value that cannot be used."
    INVALID_SESSION = "InvalidSession", "Admitted", "The session has a value that cannot be used."
    HOME_IN_USE = "HomeInUse", "Admitted", "Another session of this user, or a command that copies files, has the home."
    HOST_TAKEN = "HostTaken", "Admitted", "The host name is not available."
    NAME_TAKEN = (
        "NameTaken",
        "Admitted",
        "An object with the name of one of the children belongs to someone else, or another namespace of the release "
        "has a session of this name.",
    )
    QUOTA_EXCEEDED = "QuotaExceeded", "Admitted", "The namespace's ResourceQuota refuses the pod."
    POD_SECURITY = "PodSecurity", "Admitted", "The namespace's Pod Security level refuses the pod."
    REFUSED = "Refused", "Admitted", "The API server refuses one of the children."
    CLAIMED_FROM_POOL = "ClaimedFromPool", "Admitted", "The desktop comes from a pool."
    SUSPENDED = "Suspended", "Admitted, Ready", "The session is suspended."
    GPUS_BUSY = "GPUsBusy", "Admitted: in the queue", "All GPUs that fit are in use."
    CPU_BUSY = "CPUBusy", "Admitted: in the queue", "No node has enough free CPU."
    MEMORY_BUSY = "MemoryBusy", "Admitted: in the queue", "No node has enough free memory."
    EPHEMERAL_STORAGE_BUSY = (
        "EphemeralStorageBusy",
        "Admitted: in the queue",
        "No node has enough free local disk (ephemeral storage).",
    )
    PODS_BUSY = "PodsBusy", "Admitted: in the queue", "Every node has as many pods as it may."
    NO_GPUS = "NoGPUs", "Admitted: in the queue", "No node has a GPU."
    TOO_LARGE = "TooLarge", "Admitted: in the queue", "The session requests more than any node has."
    NO_MATCHING_NODE = (
        "NoMatchingNode",
        "Admitted: in the queue",
        "No node has the labels and taints that the template asks for.",
    )
    NODES_UNAVAILABLE = (
        "NodesUnavailable",
        "Admitted: in the queue",
        "The nodes that fit are not ready or are cordoned.",
    )
    HOME_NODE_FULL = "HomeNodeFull", "Admitted: in the queue", "The node with the home volume is full."
    HOME_NODE_GONE = "HomeNodeGone", "Admitted: in the queue", "The node with the home volume is gone."
    RESERVED = (
        "Reserved",
        "Admitted: in the queue",
        "The free capacity is reserved for sessions that have waited longer.",
    )
    BOUND = "Bound", "HomeBound", "The home volume is bound."
    NO_HOME = "NoHome", "HomeBound", "This desktop has no home volume."
    HOME_PENDING = "HomePending", "HomeBound, PodReady", "The home volume is not bound yet."
    HOME_LOST = "HomeLost", "HomeBound, PodReady", "The volume of the home is gone."
    HOME_LEAVING = "HomeLeaving", "HomeBound, PodReady", "The home volume is being deleted."
    NOT_CREATED = "NotCreated", "HomeBound, PodReady, RouteReady", "The object does not exist yet."
    POD_READY = "PodReady", "PodReady", "The desktop answers."
    POD_STOPPING = "PodStopping", "PodReady", "The pod is being removed."
    RESTARTING = "Restarting", "PodReady", "The desktop is being started again."
    NODE_LOST = "NodeLost", "PodReady", "The node does not answer."
    SCHEDULER_LATE = "SchedulerLate", "PodReady", "The volume is bound, but the scheduler has not looked again."
    POD_DELETED = "PodDeleted", "PodReady", "Someone deleted the pod."
    EVICTED = "Evicted", "PodReady", "The node or a drain evicted the pod."
    NODE_REFUSED = "NodeRefused", "PodReady", "The node refused the pod."
    POD_FAILED = "PodFailed", "PodReady", "The pod ended for good."
    OUT_OF_MEMORY = "OutOfMemory", "PodReady", "The desktop used more memory than its limit."
    OUT_OF_EPHEMERAL_STORAGE = (
        "OutOfEphemeralStorage",
        "PodReady",
        "The desktop used more local disk (ephemeral storage) than its limit.",
    )
    CRASH_LOOP = "CrashLoop", "PodReady", "The desktop stops again and again."
    MISSING_KEY = "MissingKey", "PodReady", "A Secret or ConfigMap lacks a key."
    MISSING_SECRET = "MissingSecret", "PodReady", "A Secret does not exist."
    MISSING_CONFIG_MAP = "MissingConfigMap", "PodReady", "A ConfigMap does not exist."
    MISSING_CLAIM = "MissingPersistentVolumeClaim", "PodReady", "A volume claim of the template does not exist."
    BAD_POD_CONFIG = "BadPodConfig", "PodReady", "The container cannot be set up."
    BAD_MOUNT = "BadMount", "PodReady", "A volume cannot be mounted into the container."
    BAD_COMMAND = "BadCommand", "PodReady", "The image's program cannot be started."
    PROBE_REFUSED = (
        "ProbeRefused",
        "PodReady",
        "The image answers, but not as the template says: another scheme, no such health path, or with a password.",
    )
    CANNOT_START = "CannotStart", "PodReady", "The container cannot be started."
    HOME_NOT_PROVISIONED = "HomeNotProvisioned", "PodReady", "The home volume cannot be made."
    VOLUME_ELSEWHERE = "VolumeElsewhere", "PodReady", "A volume is still attached to another node."
    VOLUME_PERMISSION = "VolumePermission", "PodReady", "A volume cannot be mounted: permission denied."
    VOLUME_MOUNT = "VolumeMount", "PodReady", "A volume cannot be mounted."
    VOLUME_PENDING = "VolumePending", "PodReady", "A volume of the template is not bound yet."
    NODE_NETWORK = "NodeNetwork", "PodReady", "The node cannot set up the pod's network."
    IMAGE_NAME_INVALID = "ImageNameInvalid", "PodReady", "The image name is not valid."
    IMAGE_NOT_PRESENT = "ImageNotPresent", "PodReady", "The image is not on the node, and the pod may not pull it."
    IMAGE_PULL_DENIED = "ImagePullDenied", "PodReady", "The registry denies the pull."
    IMAGE_WRONG_PLATFORM = "ImageWrongPlatform", "PodReady", "The image has no build for the node's processor."
    IMAGE_NOT_FOUND = "ImageNotFound", "PodReady", "The registry has no such image."
    REGISTRY_UNKNOWN = "RegistryUnknown", "PodReady", "The registry's host name is not resolved."
    REGISTRY_NOT_TRUSTED = "RegistryNotTrusted", "PodReady", "The node does not trust the registry's certificate."
    REGISTRY_BUSY = "RegistryBusy", "PodReady", "The registry limits the rate of pulls."
    REGISTRY_UNREACHABLE = "RegistryUnreachable", "PodReady", "The registry does not answer."
    IMAGE_PULL = "ImagePull", "PodReady", "The image cannot be pulled."
    MISSING_HOME = "MissingHome", "PodReady", "The claim of the home does not exist yet."
    HOME_ON_OTHER_NODE = "HomeOnOtherNode", "PodReady", "The home volume is on another node."
    NO_GPU_FREE = "NoGPUFree", "PodReady", "No node has a free GPU."
    NO_CAPACITY = "NoCapacity", "PodReady", "No node has enough free CPU, memory or pods."
    NO_VOLUME = "NoVolume", "PodReady", "No volume can be bound."
    NODES_TAINTED = "NodesTainted", "PodReady", "The nodes have taints that the template does not tolerate."
    NODES_CORDONED = "NodesCordoned", "PodReady", "The nodes are cordoned."
    NO_NODE = "NoNode", "PodReady", "The cluster has no node."
    UNSCHEDULABLE = "Unschedulable", "PodReady", "The scheduler finds no node."
    SCHEDULING_GATED = (
        "SchedulingGated",
        "PodReady",
        "Another controller, such as Kueue, has not admitted the pod yet; the message has its reason.",
    )
    SCHEDULING = "Scheduling", "PodReady", "The scheduler is looking for a node."
    PREPARING = "Preparing", "PodReady", "The node is pulling the image and mounting volumes."
    WAITING = "Waiting", "PodReady", "The container waits, and the kubelet gives no reason."
    STARTING = "Starting", "PodReady, Ready", "The desktop is starting."
    ROUTED = "Routed", "RouteReady", "The route and its Service exist."
    RUNNING = "Running", "Ready", "The desktop can be opened."
    PENDING = "Pending", "Ready", "The session waits for something; its message says for what."
    FAILED = "Failed", "Ready", "Nothing happens until someone changes something; the message says what."
    STOPPING = "Stopping", "Ready", "The session is being deleted."
    TIMED_OUT = "TimedOut", "Ready", "The run has reached its timeout."
    IDLE_TOO_LONG = "IdleTooLong", "Ready", "The desktop was idle for longer than its idle timeout."
    WORKING_HOURS_OVER = "WorkingHoursOver", "Ready", "The working hours of the template ended."
    CLOSING_SOON = "ClosingSoon", "Closing", "The working hours of the template end soon."
    EXPIRING_SOON = "ExpiringSoon", "Expiring", "The run ends soon."
    IDLE = "Idle", "Idle", "The desktop is idle and will be suspended or ended soon."
    NODE_CORDONED = "NodeCordoned", "Draining", "The node of the desktop is being drained."


ENDED_BY_ITSELF = frozenset({Reason.TIMED_OUT, Reason.IDLE_TOO_LONG, Reason.WORKING_HOURS_OVER})
"""Reasons of Ready=False of a run that the operator has ended."""
QUEUE_REASONS = frozenset(
    {
        Reason.GPUS_BUSY,
        Reason.CPU_BUSY,
        Reason.MEMORY_BUSY,
        Reason.EPHEMERAL_STORAGE_BUSY,
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
