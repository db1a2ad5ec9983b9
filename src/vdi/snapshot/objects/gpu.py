"""GPUs: devices of Dynamic Resource Allocation, and the GPU Operator's policy. Pure."""

import msgspec

from vdi.snapshot.objects.meta import ConditionsStatus, Meta, Record
from vdi.snapshot.objects.workloads import EnvVar, read_env


class ResourceSliceSpec(Record):
    driver: str = ""
    node_name: str = ""


class ResourceSlice(Record):
    """Devices of a node, as Dynamic Resource Allocation has them."""

    metadata: Meta
    spec: ResourceSliceSpec = msgspec.field(default_factory=ResourceSliceSpec)


class PluginConfig(Record):
    name: str = ""
    default: str = ""


class DevicePlugin(Record):
    enabled: bool = True
    config: PluginConfig = msgspec.field(default_factory=PluginConfig)


class Toolkit(Record):
    enabled: bool = True
    env: tuple[EnvVar, ...] = ()

    def __post_init__(self) -> None:
        self.env = read_env(self.env)


class Mig(Record):
    strategy: str = ""


class ClusterPolicySpec(Record):
    device_plugin: DevicePlugin = msgspec.field(default_factory=DevicePlugin)
    toolkit: Toolkit = msgspec.field(default_factory=Toolkit)
    mig: Mig = msgspec.field(default_factory=Mig)


class ClusterPolicyStatus(ConditionsStatus):
    state: str = ""
    namespace: str = ""


class ClusterPolicy(Record):
    """The GPU Operator's: its fields about sharing GPUs."""

    metadata: Meta
    spec: ClusterPolicySpec = msgspec.field(default_factory=ClusterPolicySpec)
    status: ClusterPolicyStatus = msgspec.field(default_factory=ClusterPolicyStatus)
