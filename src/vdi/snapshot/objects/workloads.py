"""Pods, what makes them, and their containers. Pure."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from vdi.cluster import objects as pruned
from vdi.settings import VARIABLES
from vdi.snapshot.objects.meta import REDACTED, ConditionsStatus, LabelSelector, Meta, Record
from vdi.snapshot.waits import read_wait

READ_ENV = frozenset(
    {
        *("SELKIES_ENCODER", "SELKIES_PORT", "CONFIG_FILE", "CONFIG_FILE_SRCDIR"),
        *("DEFAULT_CONFIG", "FALLBACK_STRATEGIES", "CONTAINERD_SOCKET"),
        # The operator's settings, and those of the gateway that a check reads.
        *VARIABLES,
        *("VDI_GATEWAY_NAMESPACE", "VDI_TURN_URLS"),
    }
)
# Of other settings the name is kept, which may be a misspelling.
_SETTINGS = "VDI_"
# Options of Traefik. `--providers.kubernetescrd.token` is one, too.
_READ_ARGS = re.compile(
    r"--(entrypoints\.|providers\.kubernetescrd(=|$|\.(namespaces|allowcrossnamespace)(=|$)))",
    re.IGNORECASE,
)
# This word tells NVIDIA's config-manager from its device plugin.
_READ_COMMAND = "config-manager"


class SecretKey(Record):
    name: str = ""
    key: str = ""


class ValueSource(Record):
    secret_key_ref: SecretKey | None = None


class EnvVar(Record):
    """A variable, with its value where a check reads it."""

    name: str
    value: str = ""
    value_from: ValueSource | None = None


class ContainerPort(Record):
    container_port: int
    host_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class VolumeMount(Record):
    name: str
    mount_path: str


class Container(pruned.Container, rename="camel", omit_defaults=True, kw_only=True):
    name: str
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    env: tuple[EnvVar, ...] = ()
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    # Not fields of Kubernetes: the address that its command line waits for, and the Secrets that
    # its environment names.
    waits_for: str = ""
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        command_line = (*self.command, *self.args)
        values = {variable.name: variable.value for variable in self.env}
        self.waits_for = self.waits_for or read_wait(command_line, values)
        sources = (variable.value_from for variable in self.env)
        keys = (source.secret_key_ref for source in sources if source)
        self.secrets = self.secrets or tuple(sorted({key.name for key in keys if key}))
        kept = (
            variable
            for variable in self.env
            if variable.name.startswith(_SETTINGS) or is_read(variable)
        )
        self.env = read_env(kept)
        self.args = tuple(word for word in command_line if _READ_ARGS.match(word))
        self.command = tuple(word for word in self.command if word == _READ_COMMAND)


def is_read(variable: EnvVar) -> bool:
    return variable.name in READ_ENV


def read_env(variables: Iterable[EnvVar]) -> tuple[EnvVar, ...]:
    kept = []
    for variable in variables:
        value = variable.value if is_read(variable) else REDACTED
        kept.append(EnvVar(name=variable.name, value=value, value_from=variable.value_from))
    return tuple(kept)


class KeyToPath(Record):
    key: str
    path: str


class FileSource(Record):
    """`secret`, `configMap` or `hostPath` of a volume."""

    secret_name: str = ""
    name: str = ""
    path: str = ""
    items: tuple[KeyToPath, ...] = ()


class Volume(pruned.PodVolume, rename="camel", omit_defaults=True, kw_only=True):
    secret: FileSource | None = None
    config_map: FileSource | None = None
    host_path: FileSource | None = None


class PodSpec(pruned.PodSpec, rename="camel", omit_defaults=True, kw_only=True):
    """`spec` of a Pod with its containers."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    host_network: bool = False
    # Not a field of Kubernetes: names of the Secrets in the environment of its containers.
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        containers, init_containers, volumes = self.containers, self.init_containers, self.volumes
        placement = self.node_selector, self.tolerations
        # What a pod takes is looked up by its requests. Names and images would make each pod
        # another one.
        self.containers, self.init_containers = _requests(containers), _requests(init_containers)
        super().__post_init__()
        self.node_selector, self.tolerations = placement
        self.secrets = self.secrets or tuple(
            sorted({name for one in containers for name in one.secrets})
        )
        self.containers = tuple(_without_words(container, "") for container in containers)
        self.init_containers = tuple(
            _without_words(step, step.waits_for) for step in init_containers
        )
        self.volumes = tuple(
            volume for volume in volumes if volume.persistent_volume_claim or volume.host_path
        )


def _requests(containers: Iterable[Container]) -> tuple[Any, ...]:
    return tuple(
        pruned.Container(container.resources, container.restart_policy) for container in containers
    )


def _without_words(container: Container, waits_for: str) -> Container:
    return Container(
        name=container.name,
        image=container.image,
        resources=container.resources,
        restart_policy=container.restart_policy,
        ports=container.ports,
        waits_for=waits_for,
    )


class PodStatus(pruned.PodStatus, rename="camel", omit_defaults=True, kw_only=True):
    def __post_init__(self) -> None:
        """All conditions stay."""


class Pod(pruned.Pod, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class TemplateMeta(Record):
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class WorkloadPodSpec(Record):
    service_account_name: str = ""
    host_network: bool = False
    volumes: tuple[Volume, ...] = ()
    containers: tuple[Container, ...] = ()

    def __post_init__(self) -> None:
        self.volumes = tuple(
            Volume(
                name=one.name, secret=one.secret, config_map=one.config_map, host_path=one.host_path
            )
            for one in self.volumes
        )


class WorkloadTemplate(Record):
    metadata: TemplateMeta = msgspec.field(default_factory=TemplateMeta)
    spec: WorkloadPodSpec = msgspec.field(default_factory=WorkloadPodSpec)


class UpdateStrategy(Record):
    type: str = ""


class RetentionPolicy(Record):
    """`persistentVolumeClaimRetentionPolicy` of a StatefulSet."""

    when_deleted: str = ""


class WorkloadSpec(Record):
    replicas: int = 1
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    template: WorkloadTemplate = msgspec.field(default_factory=WorkloadTemplate)
    update_strategy: UpdateStrategy = msgspec.field(default_factory=UpdateStrategy)
    persistent_volume_claim_retention_policy: RetentionPolicy = msgspec.field(
        default_factory=RetentionPolicy
    )


class WorkloadStatus(ConditionsStatus):
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    number_ready: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    observed_generation: int = 0


class WorkloadObject(Record):
    """A Deployment, StatefulSet or DaemonSet."""

    metadata: Meta
    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)


class JobSpec(Record):
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)


class Job(Record):
    metadata: Meta
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: ConditionsStatus = msgspec.field(default_factory=ConditionsStatus)
