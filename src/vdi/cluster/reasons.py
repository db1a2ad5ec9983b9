"""Reasons why a pod is not ready: codes for programs, given by `vdi.cluster.explain`.

They stand in the condition PodReady of a session, so they are constants of the API and never
renamed.
"""

from enum import StrEnum
from typing import Self


class PodReason(StrEnum):
    """The value is the code; `meaning` is for the API reference.

    A waiting container may have a reason of the kubelet's that is not here; it is passed on as it
    is.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """A code with its meaning."""
        reason = str.__new__(cls, value)
        reason._value_, reason.meaning = value, meaning
        return reason

    HOME_PENDING = "HomePending", "The home volume is not bound yet."
    HOME_LOST = "HomeLost", "The volume of the home no longer exists."
    HOME_LEAVING = "HomeLeaving", "The home volume is being deleted."
    POD_STOPPING = "PodStopping", "The pod is being deleted."
    NODE_LOST = "NodeLost", "The node does not respond."
    SCHEDULER_LATE = "SchedulerLate", "The volume is bound, but the scheduler has not retried yet."
    EVICTED = "Evicted", "The node or a drain evicted the pod."
    NODE_REFUSED = "NodeRefused", "The node refused the pod."
    POD_FAILED = "PodFailed", "The pod has ended and is not restarted."
    OUT_OF_MEMORY = "OutOfMemory", "The desktop used more memory than its limit."
    OUT_OF_EPHEMERAL_STORAGE = (
        "OutOfEphemeralStorage",
        "The desktop used more local disk (ephemeral storage) than its limit.",
    )
    CRASH_LOOP = "CrashLoop", "The desktop keeps crashing."
    MISSING_KEY = "MissingKey", "A Secret or ConfigMap lacks a key."
    MISSING_SECRET = "MissingSecret", "A Secret does not exist."
    MISSING_CONFIG_MAP = "MissingConfigMap", "A ConfigMap does not exist."
    MISSING_CLAIM = "MissingPersistentVolumeClaim", "A volume claim of the template does not exist."
    BAD_POD_CONFIG = "BadPodConfig", "The container cannot be created."
    BAD_MOUNT = "BadMount", "A volume cannot be mounted into the container."
    NO_IDMAPPED_MOUNTS = (
        "NoIdmappedMounts",
        "The filesystem of a volume does not allow the user namespace of the desktop.",
    )
    BAD_COMMAND = "BadCommand", "The image's program cannot be started."
    PROBE_REFUSED = (
        "ProbeRefused",
        (
            "The image responds, but not as the template expects: another scheme, no such health"
            " path, or a password is required."
        ),
    )
    NOT_RESPONDING = "NotResponding", "The desktop was ready, but does not respond now."
    CANNOT_START = "CannotStart", "The container cannot be started."
    HOME_NOT_PROVISIONED = "HomeNotProvisioned", "The home volume cannot be created."
    VOLUME_ELSEWHERE = "VolumeElsewhere", "A volume is still attached to another node."
    VOLUME_PERMISSION = "VolumePermission", "A volume cannot be mounted: permission denied."
    VOLUME_MOUNT = "VolumeMount", "A volume cannot be mounted."
    VOLUME_PENDING = "VolumePending", "A volume of the template is not bound yet."
    NODE_NETWORK = "NodeNetwork", "The node cannot set up the pod's network."
    IMAGE_NAME_INVALID = "ImageNameInvalid", "The image name is not valid."
    IMAGE_NOT_PRESENT = (
        "ImageNotPresent",
        "The image is not on the node, and the pull policy does not allow pulling it.",
    )
    IMAGE_PULL_DENIED = "ImagePullDenied", "The registry denies the pull."
    IMAGE_WRONG_PLATFORM = (
        "ImageWrongPlatform",
        "The image has no build for the node's architecture.",
    )
    IMAGE_NOT_FOUND = "ImageNotFound", "The registry has no such image."
    REGISTRY_UNKNOWN = "RegistryUnknown", "The registry's host name cannot be resolved."
    REGISTRY_NOT_TRUSTED = (
        "RegistryNotTrusted",
        "The node does not trust the registry's certificate.",
    )
    REGISTRY_WITHOUT_TLS = (
        "RegistryWithoutTLS",
        "The registry speaks plain HTTP, and the node expects TLS.",
    )
    REGISTRY_BUSY = "RegistryBusy", "The registry limits the rate of pulls."
    REGISTRY_UNREACHABLE = "RegistryUnreachable", "The registry does not respond."
    IMAGE_PULL = "ImagePull", "The image cannot be pulled."
    MISSING_HOME = "MissingHome", "The claim of the home does not exist yet."
    HOME_ON_OTHER_NODE = "HomeOnOtherNode", "The home volume is on another node."
    NO_GPU_FREE = "NoGPUFree", "No node has a free GPU."
    NO_CAPACITY = "NoCapacity", "No node has enough free CPU, memory or pods."
    NO_VOLUME = "NoVolume", "No volume can be bound."
    NO_MATCHING_NODE = "NoMatchingNode", "No node has the labels that the pod requires."
    NODES_TAINTED = "NodesTainted", "The nodes have taints that the template does not tolerate."
    NODES_CORDONED = "NodesCordoned", "The nodes are cordoned."
    NO_NODE = "NoNode", "The cluster has no node."
    UNSCHEDULABLE = "Unschedulable", "The scheduler finds no node."
    SCHEDULING_GATED = (
        "SchedulingGated",
        "Another controller has not removed its scheduling gate from the pod yet.",
    )
    SCHEDULING = "Scheduling", "The scheduler is looking for a node."
    PREPARING = "Preparing", "The node is pulling the image and mounting volumes."
    WAITING = "Waiting", "The container is waiting, and the kubelet reports no reason."
    STARTING = "Starting", "The desktop is starting."


# Reasons that stay until a person changes something. A missing Secret is not among them: the
# operator or GitOps may create it a moment after the pod. Nor is a taint: a node that joins has
# one.
LASTING_REASONS = frozenset(
    {
        *(PodReason.IMAGE_NAME_INVALID, PodReason.IMAGE_NOT_PRESENT, PodReason.IMAGE_PULL_DENIED),
        *(
            PodReason.IMAGE_WRONG_PLATFORM,
            PodReason.IMAGE_NOT_FOUND,
            PodReason.REGISTRY_NOT_TRUSTED,
        ),
        PodReason.REGISTRY_WITHOUT_TLS,
        *(PodReason.NODES_CORDONED, PodReason.BAD_COMMAND, PodReason.HOME_LOST),
    }
)

# A Secret, ConfigMap or key that does not exist.
REFERENCE_REASONS = frozenset(
    {
        *(PodReason.MISSING_SECRET, PodReason.MISSING_CONFIG_MAP, PodReason.MISSING_KEY),
        PodReason.BAD_POD_CONFIG,
    }
)
# A volume that cannot be mounted.
VOLUME_REASONS = frozenset(
    {
        *(PodReason.VOLUME_PERMISSION, PodReason.VOLUME_MOUNT, PodReason.VOLUME_ELSEWHERE),
        PodReason.BAD_MOUNT,
    }
)
# A program that cannot be started.
START_REASONS = frozenset({PodReason.BAD_COMMAND, PodReason.CANNOT_START})
