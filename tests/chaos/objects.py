"""The checker's own structs of pods, nodes and children, so that it does not see with the
operator's eyes.
"""

import msgspec

HOST = "vdi.kasm.io/host"


class Owner(msgspec.Struct, rename="camel", gc=False):
    kind: str = ""
    name: str = ""
    uid: str = ""


class Meta(msgspec.Struct, rename="camel", gc=False, kw_only=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[Owner, ...] = ()


class Child(msgspec.Struct, gc=False):
    metadata: Meta

    @property
    def session_uids(self) -> list[str]:
        return [owner.uid for owner in self.metadata.owner_references if owner.kind == "VDISession"]

    @property
    def host(self) -> str:
        """Of a route: where it leads to."""
        return self.metadata.annotations.get(HOST, "")


class _Resources(msgspec.Struct, gc=False):
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class _Container(msgspec.Struct, gc=False):
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _Claim(msgspec.Struct, rename="camel", gc=False):
    claim_name: str


class _Volume(msgspec.Struct, rename="camel", gc=False):
    name: str
    persistent_volume_claim: _Claim | None = None


class _PodSpec(msgspec.Struct, rename="camel", gc=False):
    node_name: str = ""
    containers: tuple[_Container, ...] = ()
    volumes: tuple[_Volume, ...] = ()


class _Condition(msgspec.Struct, gc=False):
    type: str
    status: str


class _PodStatus(msgspec.Struct, gc=False):
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()


class SeenPod(Child):
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ended(self) -> bool:
        """Whether its containers have stopped for good: it takes no room."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def ready(self) -> bool:
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )

    @property
    def unschedulable(self) -> bool:
        refused = any(
            condition.type == "PodScheduled" and condition.status == "False"
            for condition in self.status.conditions
        )
        return refused and not self.spec.node_name

    @property
    def home(self) -> str:
        """The claim that is mounted as home, if any."""
        claims = (
            volume.persistent_volume_claim for volume in self.spec.volumes if volume.name == "home"
        )
        return next((claim.claim_name for claim in claims if claim), "")

    def requests(self, resource: str) -> int:
        """The requested number of a resource that comes in whole numbers."""
        given = (container.resources for container in self.spec.containers)
        return sum(int(one.requests.get(resource, one.limits.get(resource, "0"))) for one in given)


class _NodeStatus(msgspec.Struct, gc=False):
    allocatable: dict[str, str] = {}


class SeenNode(msgspec.Struct, gc=False):
    metadata: Meta
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)

    def allocatable(self, resource: str) -> int:
        return int(self.status.allocatable.get(resource, "0"))
