"""`VDITemplate`: a kind of desktop that people can start.

Descriptions and rules of the fields become the CRD and the API reference (`make generate`).
"""

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import (
    ABSOLUTE_PATH,
    CPU,
    DESKTOP_MEMORY,
    ENV_NAME,
    HOST_LABEL,
    IMAGE,
    MEMORY,
    NOT_OURS,
    NOT_SHARED_MEMORY,
    NOT_THE_AGENTS,
    PRINTABLE,
    PRINTABLE_LINES,
    SUB_PATH,
    URL_PATH,
    Quantity,
    Rule,
    default_within_maximum,
    doc,
    duration,
    object_name,
    quantities_as_text,
    quantity,
)
from vdi.api.meta import Condition, ObjectMeta
from vdi.api.recording import TemplateRecording, TemplateWatermark
from vdi.api.schedule import TemplateSchedule
from vdi.api.streaming import RULES, TemplateApp, TemplateKeyboard, TemplateStreaming

# Without dyn() the API server assumes that string(integer) may have any length, and refuses the
# rule as too costly.
_GPUS, _MOST_GPUS = "string(dyn(self.defaultGPU))", "string(dyn(self.maxGPU))"
_MAXIMUM_GPU = Rule(
    "!has(self.maxGPU) || self.defaultGPU <= self.maxGPU",
    "defaultGPU must not be more than maxGPU",
    f'"defaultGPU is \'" + {_GPUS} + "\', more than maxGPU \'" + {_MOST_GPUS} + "\'"',
    ".defaultGPU",
)


class TemplateResources(msgspec.Struct, rename="camel", omit_defaults=True):
    """Default and maximum resources of a desktop.

    Default of a maximum: the larger of the default value and, for GPUs, 1.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _MAXIMUM_GPU,
        default_within_maximum("defaultMemory", "maxMemory"),
        default_within_maximum("defaultCPU", "maxCPU"),
        default_within_maximum("defaultEphemeralStorage", "maxEphemeralStorage"),
        Rule(
            "!has(self.maxEphemeralStorage) || has(self.defaultEphemeralStorage)",
            "maxEphemeralStorage needs defaultEphemeralStorage, because a session without a value"
            " would have no limit",
            field_path=".maxEphemeralStorage",
        ),
    )

    default_gpu: Annotated[
        int, doc("GPUs. 0: a CPU desktop, which ignores the session's gpu.", minimum=0)
    ] = msgspec.field(name="defaultGPU", default=1)
    default_memory: Annotated[Quantity, quantity("Memory.", DESKTOP_MEMORY)] = "4Gi"
    default_cpu: Annotated[Quantity, quantity("CPUs.", CPU)] = msgspec.field(
        name="defaultCPU", default="2"
    )
    max_gpu: Annotated[
        int | None,
        doc(
            "The maximum number of GPUs that a session may request. Default: the larger of 1 and"
            " defaultGPU.",
            minimum=0,
        ),
    ] = msgspec.field(name="maxGPU", default=None)
    max_memory: Annotated[
        Quantity | None,
        quantity(
            "The maximum memory that a session may request. Default: defaultMemory.", DESKTOP_MEMORY
        ),
    ] = None
    max_cpu: Annotated[
        Quantity | None,
        quantity(
            "The maximum number of CPUs that a session may request. Default: defaultCPU.", CPU
        ),
    ] = msgspec.field(name="maxCPU", default=None)
    default_ephemeral_storage: Annotated[
        Quantity | None,
        quantity(
            "Local disk of the node: data outside home and volumes, and logs. The pod requests all"
            " of it, and a desktop that uses more is evicted. Default: no request and no limit.",
            MEMORY,
        ),
    ] = None
    max_ephemeral_storage: Annotated[
        Quantity | None,
        quantity(
            "The maximum local disk that a session may request. Default: defaultEphemeralStorage.",
            MEMORY,
        ),
    ] = None

    def __post_init__(self) -> None:
        quantities_as_text(self, "default_memory", "default_cpu", "max_memory", "max_cpu")
        quantities_as_text(self, "default_ephemeral_storage", "max_ephemeral_storage")


class SecretKeyRef(msgspec.Struct, rename="camel", omit_defaults=True):
    """A key of a Secret in the session's namespace."""

    name: Annotated[str, object_name("Name of the Secret.")]
    key: Annotated[str, doc("Key in the Secret.", pattern="^[-._a-zA-Z0-9]+$", maxLength=253)]
    optional: Annotated[
        bool,
        doc("true: the desktop starts without the variable if the Secret or the key is missing."),
    ] = False


class EnvVarSource(msgspec.Struct, rename="camel", omit_defaults=True):
    """Source of an environment variable's value."""

    secret_key_ref: Annotated[SecretKeyRef, doc("A key of a Secret in the session's namespace.")]


class ConfigMapKeyRef(msgspec.Struct, rename="camel", omit_defaults=True):
    """A key of a ConfigMap in the session's namespace."""

    name: Annotated[str, object_name("Name of the ConfigMap.")]
    key: Annotated[
        str, doc("Key in the ConfigMap.", pattern="^[-._a-zA-Z0-9]+$", maxLength=253)
    ] = "startup.sh"


class StartupScript(msgspec.Struct, rename="camel", omit_defaults=True):
    """A script that the image runs at each start of a desktop, as the desktop's user."""

    config_map_key_ref: Annotated[
        ConfigMapKeyRef, doc("A key of a ConfigMap in the session's namespace.")
    ]


class EnvVar(msgspec.Struct, rename="camel", omit_defaults=True):
    """One environment variable: `value` or `valueFrom`, not both."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "needs exactly one of value and valueFrom",
            "\"'\" + self.name + \"' has \" + (has(self.value) ? 'both' : 'neither') + "
            '" of value and valueFrom, and needs exactly one"',
        ),
    )

    name: Annotated[str, doc("Name of the variable.", ENV_NAME, minLength=1, maxLength=256)]
    value: Annotated[str | None, doc("Its value, stored as plain text.", maxLength=4096)] = None
    value_from: Annotated[EnvVarSource | None, doc("Where its value comes from.")] = None


class HomeScope(StrEnum):
    """Values of `persistence.scope`."""

    USER_AND_TEMPLATE = "UserAndTemplate"
    USER = "User"
    SESSION = "Session"

    @classmethod
    def _missing_(cls, _value: object) -> "HomeScope":
        """A value of a later version: the one that shares nothing and deletes nothing."""
        return cls.USER_AND_TEMPLATE


class AccessMode(StrEnum):
    """Values of `persistence.accessMode`: those of Kubernetes that a home can have."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"

    @classmethod
    def _missing_(cls, _value: object) -> "AccessMode":
        """A value of a later version: one desktop at a time is always safe."""
        return cls.READ_WRITE_ONCE


class TemplatePersistence(msgspec.Struct, rename="camel", omit_defaults=True):
    """Defaults of the home volume, and the maximum size that a session may request."""

    rules: ClassVar[tuple[Rule, ...]] = (default_within_maximum("size", "maxSize"),)

    enabled: Annotated[
        bool, doc("Whether desktops have a home volume, unless the session sets it.")
    ] = True
    size: Annotated[Quantity, quantity("Size of a new home volume.", MEMORY)] = "10Gi"
    max_size: Annotated[
        Quantity | None,
        quantity(
            "The maximum size of a new home volume that a session may request. Default: size.",
            MEMORY,
        ),
    ] = None
    storage_class: Annotated[str, object_name("StorageClass of a new home volume.")] = "local-path"
    scope: Annotated[
        HomeScope,
        doc(
            "Who shares a home. UserAndTemplate: each user has one home per template. User: each"
            " user has one home for all templates with this scope. Session: each session has its"
            " own home, which is deleted with it. An existing home of user and template stays in"
            " use under User."
        ),
    ] = HomeScope.USER_AND_TEMPLATE
    access_mode: Annotated[
        AccessMode,
        doc(
            "Access mode of a new home volume. ReadWriteOnce: one running desktop at a time."
            " ReadWriteMany: several; the StorageClass must support it."
        ),
    ] = AccessMode.READ_WRITE_ONCE
    mount_path: Annotated[
        str, doc("Path of the user's home directory in the image.", ABSOLUTE_PATH, maxLength=512)
    ] = "/home/user"

    def __post_init__(self) -> None:
        quantities_as_text(self, "size", "max_size")


class ClaimVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An existing PersistentVolumeClaim in the session's namespace."""

    claim_name: Annotated[str, object_name("Name of the PersistentVolumeClaim.")]


class ConfigMapVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An existing ConfigMap in the session's namespace."""

    name: Annotated[str, object_name("Name of the ConfigMap.")]


class SecretVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An existing Secret in the session's namespace."""

    secret_name: Annotated[str, object_name("Name of the Secret.")]


class VolumeGroup(msgspec.Struct, rename="camel", omit_defaults=True):
    """A group whose members get the volume."""

    name: Annotated[
        str, doc("Group, as the login names it.", PRINTABLE, minLength=1, maxLength=254)
    ]
    read_only: Annotated[bool, doc("false: desktops of its members may write to the volume.")] = (
        True
    )


class NFSVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An NFS export. Pod Security `restricted` forbids it in a pod; use a claim with an NFS volume
    instead.
    """

    server: Annotated[
        str, doc("Host name or address of the server.", pattern="^[!-~]+$", maxLength=253)
    ]
    path: Annotated[str, doc("Exported path.", ABSOLUTE_PATH, maxLength=512)]


class TemplateVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """A volume in addition to the home, also inside it: exactly one source."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret),"
            " has(self.nfs)].exists_one(given, given)",
            "needs exactly one of persistentVolumeClaim, configMap, secret and nfs",
            '"\'" + self.name + "\' has " + (has(self.persistentVolumeClaim) ||'
            " has(self.configMap) || has(self.secret) || has(self.nfs) ? 'several' : 'none') + ' of"
            " persistentVolumeClaim, configMap, secret and nfs, and needs exactly one'",
        ),
        Rule(
            "!has(self.subPath) || !self.subPath.contains('{group}') || "
            "(has(self.groups) && self.groups.size() > 0 && self.mountPath.contains('{group}'))",
            "{group} in subPath needs groups, and {group} in mountPath",
            '"\'" + self.name + "\' has {group} in subPath, and needs groups, and {group} in'
            ' mountPath"',
        ),
    )

    name: Annotated[
        str, doc("Name of the volume in the pod.", HOST_LABEL, NOT_OURS, minLength=1, maxLength=63)
    ]
    mount_path: Annotated[
        str,
        doc(
            "Where it is mounted, also inside the home. With {group} in subPath, {group} is the"
            " folder of the group.",
            ABSOLUTE_PATH,
            NOT_SHARED_MEMORY,
            maxLength=512,
        ),
    ]
    sub_path: Annotated[
        str | None,
        doc(
            "Folder or file of the volume that is mounted; a folder that does not exist is created."
            " {user}: the folder of the user. {group}: a folder for each of the user's groups among"
            " groups. Default: the whole volume.",
            SUB_PATH,
            maxLength=255,
        ),
    ] = None
    read_only: Annotated[
        bool, doc("false: the desktop can write to it. Ignored if groups is set.")
    ] = True
    groups: Annotated[
        tuple[VolumeGroup, ...],
        doc(
            "Who gets the volume. A user in several groups may write if one of them may. Only"
            " desktops that the gateway starts have groups. Default: everyone, as readOnly says.",
            list_key="name",
            maxItems=64,
        ),
    ] = ()
    persistent_volume_claim: Annotated[
        ClaimVolume | None, doc("An existing claim in the session's namespace.")
    ] = None
    config_map: Annotated[
        ConfigMapVolume | None, doc("An existing ConfigMap in the session's namespace.")
    ] = None
    secret: Annotated[
        SecretVolume | None, doc("An existing Secret in the session's namespace.")
    ] = None
    nfs: Annotated[
        NFSVolume | None,
        doc(
            "An NFS export. Pod Security `restricted` forbids it; use a claim with an NFS volume"
            " instead."
        ),
    ] = None


class TemplateProgram(msgspec.Struct, rename="camel", omit_defaults=True):
    """Programs from an image, mounted read-only beside the desktop's own."""

    image: Annotated[str, doc("Image whose files are mounted.", IMAGE, minLength=1, maxLength=512)]
    mount_path: Annotated[
        str, doc("Where its files are mounted.", ABSOLUTE_PATH, NOT_SHARED_MEMORY, maxLength=512)
    ]


class UserNamespaces(StrEnum):
    """Values of `isolation.userNamespaces`."""

    AUTO = "Auto"
    REQUIRED = "Required"
    OFF = "Off"

    @classmethod
    def _missing_(cls, _value: object) -> "UserNamespaces":
        """A value of a later version: the one that protects the node."""
        return cls.REQUIRED


class TemplateIsolation(msgspec.Struct, rename="camel", omit_defaults=True):
    """Isolation of desktops from their node."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # The field's own default, {}, is checked before those in it are there.
            "!has(self.rootInDesktop) || !self.rootInDesktop || self.userNamespaces == 'Required'",
            "'true' needs userNamespaces: Required, because without a user namespace root would be"
            " the node's root",
            field_path=".rootInDesktop",
        ),
    )

    user_namespaces: Annotated[
        UserNamespaces,
        doc(
            "Whether the pod has a user namespace, in which its user ids are none of the node's."
            " Auto: if all nodes and volumes for the desktop allow it. Required: else the session"
            " waits. Off: never."
        ),
    ] = UserNamespaces.AUTO
    root_in_desktop: Annotated[
        bool,
        doc(
            "true: the user is root inside, without a capability, and can install packages. Ignores"
            " runAsUser."
        ),
    ] = False


class Toleration(msgspec.Struct, rename="camel", omit_defaults=True):
    """A toleration, as in a pod's spec."""

    key: Annotated[
        str | None,
        doc(
            "Key of the taint. Default: every key (operator Exists).",
            pattern="^[!-~]*$",
            maxLength=317,
        ),
    ] = None
    operator: Annotated[
        str | None, doc("How the value is compared. Default: Equal.", enum=["Exists", "Equal"])
    ] = None
    value: Annotated[str | None, doc("Value of the taint.", pattern="^[!-~]*$", maxLength=63)] = (
        None
    )
    effect: Annotated[
        str | None,
        doc(
            "Effect of the taint. Default: every effect.",
            enum=["NoSchedule", "PreferNoSchedule", "NoExecute"],
        ),
    ] = None
    toleration_seconds: Annotated[
        int | None, doc("Seconds that a NoExecute taint is tolerated. Default: forever.")
    ] = None


# The health path of Selkies 2.
DEFAULT_HEALTH_PATH = "/api/health"


class Protocol(StrEnum):
    """Values of `protocol`."""

    SELKIES = "Selkies"
    WEB = "Web"

    @classmethod
    def _missing_(cls, _value: object) -> "Protocol":
        """A value of a later version: nothing is assumed of the image, so it gets no token and has
        no viewers.
        """
        return cls.WEB


class Scheme(StrEnum):
    """Values of `scheme`, as in a pod's `httpGet` probe."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"

    @classmethod
    def _missing_(cls, _value: object) -> "Scheme":
        """A value of a later version: the default."""
        return cls.HTTP


class Placement(msgspec.Struct, rename="camel", omit_defaults=True):
    """Nodes that desktops of this template may run on."""

    node_selector: Annotated[
        dict[str, Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": 63})]],
        doc("Labels that the node must have.", maxProperties=32),
    ] = {}
    tolerations: Annotated[
        tuple[Toleration, ...],
        doc(
            "Taints that the desktop tolerates.",
            maxItems=32,
            **{"x-kubernetes-list-type": "atomic"},
        ),
    ] = ()
    runtime_class_name: Annotated[
        str | None, object_name("RuntimeClass of the pod, such as nvidia.")
    ] = None


_OPERATORS_KEY = (
    "key.startsWith('vdi.kasm.io/') || key in ['app.kubernetes.io/name',"
    " 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']"
)
_FREE_KEYS = Rule(
    f"!self.exists(key, {_OPERATORS_KEY})",
    "must not have keys of the operator: vdi.kasm.io/..., app.kubernetes.io/name,"
    " app.kubernetes.io/component and app.kubernetes.io/managed-by; every other key is allowed",
    f'"\'" + self.filter(key, {_OPERATORS_KEY})[0] + "\' belongs to the operator; allowed: every'
    " key except vdi.kasm.io/..., app.kubernetes.io/name, app.kubernetes.io/component and"
    ' app.kubernetes.io/managed-by"',
)
_LABEL_VALUE = msgspec.Meta(
    extra_json_schema={"maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"}
)


class PodTemplateMetadata(msgspec.Struct, rename="camel", omit_defaults=True):
    """Labels and annotations of the desktop's pod, in addition to those of the operator."""

    labels: Annotated[
        dict[str, Annotated[str, _LABEL_VALUE]],
        doc("Labels of the pod, such as a cost centre.", _FREE_KEYS, maxProperties=32),
    ] = {}
    annotations: Annotated[
        dict[str, Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": 4096})]],
        doc(
            "Annotations of the pod, for an autoscaler, a service mesh or a scanner.",
            _FREE_KEYS,
            maxProperties=32,
        ),
    ] = {}


class PodTemplateSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """Fields of the pod's spec that have no other place in the template."""

    priority_class_name: Annotated[
        str | None,
        object_name(
            "PriorityClass of the pod, for the scheduler and for evictions. The queue uses the"
            " session's priority."
        ),
    ] = None


class PodTemplate(msgspec.Struct, rename="camel", omit_defaults=True):
    """Additional settings of the desktop's pod, in the form of Kubernetes' pod templates."""

    metadata: Annotated[PodTemplateMetadata, doc("Labels and annotations.")] = msgspec.field(
        default_factory=PodTemplateMetadata
    )
    spec: Annotated[PodTemplateSpec, doc("Fields of the pod's spec.")] = msgspec.field(
        default_factory=PodTemplateSpec
    )


class LocalObjectReference(msgspec.Struct, rename="camel", omit_defaults=True):
    """The name of an object in the session's namespace."""

    name: Annotated[str, object_name("Name of the object.")]


class TimeoutAction(StrEnum):
    """Values of `onTimeout`."""

    TERMINATE = "Terminate"
    SUSPEND = "Suspend"

    @classmethod
    def _missing_(cls, _value: object) -> "TimeoutAction":
        """A value of a later version: the one that loses nothing."""
        return cls.SUSPEND


class IdleAction(StrEnum):
    """Values of `onIdle`."""

    SUSPEND = "Suspend"
    TERMINATE = "Terminate"

    @classmethod
    def _missing_(cls, _value: object) -> "IdleAction":
        """A value of a later version: the one that loses nothing."""
        return cls.SUSPEND


class Lifecycle(msgspec.Struct, rename="camel", omit_defaults=True):
    """Length of a run, and the action at its end."""

    max_timeout: Annotated[
        str | None,
        duration(
            "The maximum length of one run, regardless of the session's timeout. Default: the"
            " cluster's sessions.maxTimeout (a value of the chart)."
        ),
    ] = None
    on_timeout: Annotated[
        TimeoutAction, doc("At the end of a run: delete the session, or suspend it.")
    ] = TimeoutAction.TERMINATE
    idle_timeout: Annotated[
        str | None,
        duration(
            "How long a desktop may be without a connection and without input, unless the session"
            " sets it. Default: no limit."
        ),
    ] = None
    on_idle: Annotated[
        IdleAction, doc("After the idle timeout: suspend the session, or delete it.")
    ] = IdleAction.SUSPEND


_Member = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={"x-kubernetes-validations": [PRINTABLE.as_schema()], "maxLength": 254}
    ),
]


class TemplateAccess(msgspec.Struct, rename="camel", omit_defaults=True):
    """Users who may start desktops of a template. Both lists empty: everyone. The gateway enforces
    it.
    """

    users: Annotated[tuple[_Member, ...], doc("E-mail addresses.", maxItems=1024)] = ()
    groups: Annotated[
        tuple[_Member, ...], doc("Groups as reported by the login.", maxItems=256)
    ] = ()


class Agents(msgspec.Struct, rename="camel", omit_defaults=True):
    """Software agents that use the mouse and the keyboard of desktops, through the gateway."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.enabled || !(self.countsAsUse || self.run || self.recordText)",
            "countsAsUse, run and recordText need enabled: true",
            field_path=".enabled",
        ),
    )

    enabled: Annotated[
        bool, doc("true: owners and collaborators may have agents act in their desktops.")
    ] = False
    counts_as_use: Annotated[
        bool,
        doc(
            "Whether an agent's actions count as input for the idle timeout. false: they only keep"
            " the desktop for 10 minutes, or for the timeout if it is shorter."
        ),
    ] = False
    run: Annotated[bool, doc("true: agents may also run commands in the desktop, as its user.")] = (
        False
    )
    record_text: Annotated[
        bool, doc("true: the audit log has the text that agents type; false: only its length.")
    ] = False


_HAS_ROOT = (
    "has(self.isolation) && has(self.isolation.rootInDesktop) && self.isolation.rootInDesktop"
)
_HAS_AGENTS = "has(self.agents) && has(self.agents.enabled) && self.agents.enabled"
# Root can replace the programs of the image that make the recording, draw the mark, and put
# people's input first.
_UNDONE_BY_ROOT = {
    "recording.mode": (
        "has(self.recording) && has(self.recording.mode) && self.recording.mode == 'Always'"
    ),
    "watermark": "has(self.watermark)",
    "agents.enabled": _HAS_AGENTS,
}


class TemplateSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """Definition of the desktops of this template."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath =="
            " v.mountPath))",
            "each mountPath must be used once",
            field_path=".volumes",
        ),
        Rule(
            "!has(self.volumes) || self.volumes.all(v, v.mountPath != self.persistence.mountPath)",
            "a volume must not be mounted at the home's path (persistence.mountPath)",
            '"mounted at \'" + self.persistence.mountPath + "\', which is the mount path of the'
            ' home (persistence.mountPath)"',
            ".volumes",
        ),
        *(
            Rule(
                f"!({_HAS_ROOT}) || !({condition})",
                f"'true' is not possible with {field}: root can undo it; allowed: false, or no"
                f" {field}",
                field_path=".isolation.rootInDesktop",
            )
            for field, condition in _UNDONE_BY_ROOT.items()
        ),
        Rule(
            f"!has(self.watermark) || !({_HAS_AGENTS})",
            "'true' is not possible with watermark, which pictures for agents do not have; allowed:"
            " false, or no watermark",
            field_path=".agents.enabled",
        ),
        *RULES,
    )

    image: Annotated[
        str,
        doc(
            "Image of the desktop. It serves HTTP on port, and runs as runAsUser.",
            IMAGE,
            minLength=1,
            maxLength=512,
        ),
    ]
    display_name: Annotated[str, doc("Display name.", PRINTABLE, maxLength=128)] = ""
    description: Annotated[
        str, doc("Purpose of this desktop.", PRINTABLE_LINES, maxLength=2048)
    ] = ""
    icon: Annotated[
        str,
        doc(
            "Icon in the portal: the name of one of its icons, such as browser, or the address of a"
            " picture: data:image/, or https: where gateway.portal.iconOrigins of the chart"
            " allows it.",
            pattern="^[ -~]*$",
            maxLength=16384,
        ),
    ] = ""
    resources: Annotated[TemplateResources, doc("Default and maximum resources of a desktop.")] = (
        msgspec.field(default_factory=TemplateResources)
    )
    env: Annotated[
        tuple[EnvVar, ...],
        doc("Environment variables of the desktop.", list_key="name", maxItems=128),
    ] = ()
    streaming: Annotated[
        TemplateStreaming,
        doc("Settings of picture, sound and input; omitted settings are those of the image."),
    ] = msgspec.field(default_factory=TemplateStreaming)
    app: Annotated[TemplateApp | None, doc("A single application instead of a whole desktop.")] = (
        None
    )
    keyboard: Annotated[
        TemplateKeyboard | None, doc("Keyboard of the desktop. Default: the image's keyboard.")
    ] = None
    recording: Annotated[
        TemplateRecording | None, doc("Recordings of the desktops. Default: none are made.")
    ] = None
    watermark: Annotated[TemplateWatermark | None, doc("A text in the picture. Default: none.")] = (
        None
    )
    agents: Annotated[
        Agents | None,
        doc("Software agents in desktops of this template. The image must be ours. Default: none."),
    ] = None
    protocol: Annotated[
        Protocol,
        doc(
            "What the image serves. Selkies: a desktop that Selkies streams. Web: any page, such as"
            " KasmVNC, noVNC, code-server or JupyterLab; it needs the gateway, and can be shared"
            " with full control only."
        ),
    ] = Protocol.SELKIES
    port: Annotated[
        int, doc("Port that the image serves on.", NOT_THE_AGENTS, minimum=1, maximum=65535)
    ] = 8080
    scheme: Annotated[
        Scheme,
        doc(
            "Protocol of the image on port. HTTPS: its certificate is not verified, because it is"
            " the image's own."
        ),
    ] = Scheme.HTTP
    health_path: Annotated[
        str,
        doc(
            "Path that responds with a status from 200 to 399 when the desktop is ready."
            " /api/health means /health for an image of Selkies 1, and / with protocol Web; with"
            " basicAuthSecret, the check is only that the port accepts connections.",
            URL_PATH,
            maxLength=512,
        ),
    ] = DEFAULT_HEALTH_PATH
    basic_auth_secret: Annotated[
        LocalObjectReference | None,
        doc(
            "Secret in the session's namespace with the keys username and password, for an image"
            " with basic auth (type kubernetes.io/basic-auth). The gateway adds them to each"
            " request; browsers do not receive them."
        ),
    ] = None
    run_as_user: Annotated[
        int,
        doc(
            "User and group id of the image's processes and of the home.",
            minimum=1,
            maximum=2147483647,
        ),
    ] = 1000
    persistence: Annotated[TemplatePersistence, doc("Defaults for the home volume.")] = (
        msgspec.field(default_factory=TemplatePersistence)
    )
    shm_size: Annotated[
        Quantity, quantity("Size of /dev/shm; it counts towards the desktop's memory.", MEMORY)
    ] = "1Gi"
    volumes: Annotated[
        tuple[TemplateVolume, ...],
        doc("Volumes in addition to the home, also inside it.", list_key="name", maxItems=16),
    ] = ()
    programs: Annotated[
        tuple[TemplateProgram, ...],
        doc("Images with programs, mounted read-only.", list_key="mountPath", maxItems=8),
    ] = ()
    isolation: Annotated[
        TemplateIsolation, doc("User namespaces, and root inside the desktop.")
    ] = msgspec.field(default_factory=TemplateIsolation)
    startup_script: Annotated[
        StartupScript | None,
        doc(
            "Script that runs at each start before the applications, as the desktop's user. The"
            " desktop waits for it for 10 s at most. The image has to run the file in"
            " VDI_STARTUP_SCRIPT, as vdi/desktop does."
        ),
    ] = None
    placement: Annotated[Placement, doc("Where desktops of this template may run.")] = (
        msgspec.field(default_factory=Placement)
    )
    pod_template: Annotated[PodTemplate, doc("Additional settings of the desktop's pod.")] = (
        msgspec.field(default_factory=PodTemplate)
    )
    image_pull_secrets: Annotated[
        tuple[LocalObjectReference, ...],
        doc(
            "Secrets in the session's namespace for private registries.",
            list_key="name",
            maxItems=16,
        ),
    ] = ()
    lifecycle: Annotated[Lifecycle, doc("How long desktops run, and what happens at the end.")] = (
        msgspec.field(default_factory=Lifecycle)
    )
    schedule: Annotated[
        TemplateSchedule | None,
        doc(
            "Working hours: desktops that run at the end of a window are suspended. A desktop that"
            " is started outside the windows runs until the end of the next one. Default: always."
        ),
    ] = None
    access: Annotated[TemplateAccess, doc("Who may start desktops of this template.")] = (
        msgspec.field(default_factory=TemplateAccess)
    )
    service_workers: Annotated[
        bool,
        doc(
            "true: pages of the desktop may register service workers, as code-server does. The"
            " gateway enforces it, and changes take effect immediately. A service worker stays in"
            " the browsers of all users who opened the desktop."
        ),
    ] = False
    thumbnails: Annotated[
        bool,
        doc(
            "true: the portal shows the owner of a desktop a small picture of its screen, and no"
            " one else. The gateway enforces it, and changes take effect immediately. false: for"
            " desktops whose screen must not appear outside of them."
        ),
    ] = True
    pre_pull: Annotated[
        bool,
        doc("true: every node that may run a desktop of this template has its image in advance."),
    ] = False

    def __post_init__(self) -> None:
        quantities_as_text(self, "shm_size")

    @property
    def user_id(self) -> int:
        """User and group id of the desktop's processes, inside it."""
        if self.isolation.root_in_desktop:
            return 0
        return self.run_as_user


class PrePullFailure(msgspec.Struct, rename="camel", omit_defaults=True):
    """A node that failed to pull the image."""

    node: Annotated[str, doc("The node.")]
    reason: Annotated[str, doc("Reason code, for programs.")] = ""
    message: Annotated[str, doc("Explanation for people.")] = ""


class PrePullStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """Progress of pulling the image on the nodes."""

    image: Annotated[str, doc("The image that this status describes.")] = ""
    desired: Annotated[int, doc("Nodes that should have it.")] = 0
    ready: Annotated[int, doc("Nodes that have the image.")] = 0
    pulling: Annotated[tuple[str, ...], doc("Nodes that are pulling the image.")] = ()
    failed: Annotated[
        tuple[PrePullFailure, ...], doc("Nodes that failed to pull the image, and the reason.")
    ] = ()


class LargestSize(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """The most that one node has for a desktop of the template."""

    memory: Annotated[str, doc("Memory of the node with the most.")] = ""
    cpu: Annotated[str, doc("CPUs of the node with the most.")] = ""


class TemplateStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The template's state, as observed by the operator."""

    pre_pull: Annotated[
        PrePullStatus | None,
        doc("Progress of pulling the image on the nodes; absent without prePull."),
    ] = None
    observed_generation: Annotated[
        int, doc("Generation of the template that this status describes.")
    ] = 0
    largest: Annotated[
        LargestSize | None,
        doc(
            "The most that the nodes have which may run its desktops. A resize to more is refused."
            " Absent where there is no such node, and where a cluster autoscaler may bring a larger"
            " one."
        ),
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        doc(
            "ImagePulled: whether every node that should have the image has it. SettingsIgnored:"
            " the image ignores a setting of the template.",
            list_key="type",
            maxItems=32,
        ),
    ] = ()


class VDITemplate(msgspec.Struct, rename="camel", omit_defaults=True):
    """A kind of desktop that users can start. Changes apply from the next start, not to running
    desktops.
    """

    plural: ClassVar[str] = "vditemplates"

    metadata: ObjectMeta
    spec: TemplateSpec
    status: TemplateStatus = msgspec.field(default_factory=TemplateStatus)
