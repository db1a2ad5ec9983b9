"""`VDITemplate`: a kind of desktop that people can start."""

import msgspec

from vdi.api.meta import ObjectMeta


class TemplateResources(msgspec.Struct, rename="camel", omit_defaults=True):
    """Limits of a desktop when the session names none, and the most that it may name.

    A maximum that is left out is the larger of the default and, for the GPU, 1.
    """

    default_gpu: int = msgspec.field(name="defaultGPU", default=1)
    default_memory: str = "4Gi"
    default_cpu: str = msgspec.field(name="defaultCPU", default="2")
    max_gpu: int | None = msgspec.field(name="maxGPU", default=None)
    max_memory: str | None = None
    max_cpu: str | None = msgspec.field(name="maxCPU", default=None)


class SecretKeyRef(msgspec.Struct, rename="camel", omit_defaults=True):
    """A key of a Secret in the session's namespace."""

    name: str
    key: str
    optional: bool = False


class EnvVarSource(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where an environment variable's value comes from."""

    secret_key_ref: SecretKeyRef


class EnvVar(msgspec.Struct, rename="camel", omit_defaults=True):
    """One environment variable: `value` or `valueFrom`, not both."""

    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class TemplatePersistence(msgspec.Struct, rename="camel", omit_defaults=True):
    """Defaults of the home volume."""

    enabled: bool = True
    size: str = "10Gi"
    storage_class: str = "local-path"
    mount_path: str = "/home/user"


class ClaimVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An existing PersistentVolumeClaim in the session's namespace."""

    claim_name: str


class ConfigMapVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An existing ConfigMap in the session's namespace."""

    name: str


class NFSVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """An NFS export."""

    server: str
    path: str


class TemplateVolume(msgspec.Struct, rename="camel", omit_defaults=True):
    """A volume mounted beside the home: exactly one source."""

    name: str
    mount_path: str
    read_only: bool = True
    persistent_volume_claim: ClaimVolume | None = None
    config_map: ConfigMapVolume | None = None
    nfs: NFSVolume | None = None


class Toleration(msgspec.Struct, rename="camel", omit_defaults=True):
    """As in a pod's spec."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


class Placement(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where desktops of this template may run."""

    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    runtime_class_name: str | None = None


class LocalObjectReference(msgspec.Struct, rename="camel", omit_defaults=True):
    """The name of an object in the session's namespace."""

    name: str


class TemplateSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a desktop of this kind is made of."""

    image: str
    display_name: str = ""
    description: str = ""
    icon: str = ""
    resources: TemplateResources = msgspec.field(default_factory=TemplateResources)
    env: tuple[EnvVar, ...] = ()
    port: int = 8080
    health_path: str = "/api/health"
    persistence: TemplatePersistence = msgspec.field(default_factory=TemplatePersistence)
    shm_size: str = "1Gi"
    volumes: tuple[TemplateVolume, ...] = ()
    placement: Placement = msgspec.field(default_factory=Placement)
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()


class VDITemplate(msgspec.Struct, rename="camel", omit_defaults=True):
    """The object as the API server stores it."""

    metadata: ObjectMeta
    spec: TemplateSpec
