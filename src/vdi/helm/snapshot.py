"""The objects that a release waits for, with the fields that `waiting` reads."""

from typing import NamedTuple

import msgspec

from vdi.api.meta import OwnerReference
from vdi.session.observed import ChildMeta, ContainerStatus, Event, PersistentVolumeClaim, PodCondition


class PodStatus(msgspec.Struct, rename="camel", frozen=True):
    """`status` of a Pod, with its init containers."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[PodCondition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class PodSpec(msgspec.Struct, rename="camel", frozen=True):
    """`spec` of a Pod."""

    node_name: str = ""


class Pod(msgspec.Struct, frozen=True):
    """A pod of any workload."""

    metadata: ChildMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def condition(self, kind: str) -> PodCondition | None:
        """The condition of that type."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    @property
    def owners(self) -> tuple[OwnerReference, ...]:
        """Who made it."""
        return self.metadata.owner_references


class JobStatus(msgspec.Struct, frozen=True):
    """`status` of a Job."""

    conditions: tuple[PodCondition, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """A Job."""

    metadata: ChildMeta
    status: JobStatus = JobStatus()


class ServiceSpec(msgspec.Struct, frozen=True):
    """`spec` of a Service."""

    type: str = ""


class Balancer(msgspec.Struct, frozen=True):
    """`status.loadBalancer` of a Service."""

    ingress: list[dict[str, object]] | None = None


class ServiceStatus(msgspec.Struct, rename="camel", frozen=True):
    """`status` of a Service."""

    load_balancer: Balancer = Balancer()


class Service(msgspec.Struct, frozen=True):
    """A Service."""

    metadata: ChildMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class NamespaceSnapshot(NamedTuple):
    """The objects of one namespace."""

    pods: list[Pod]
    claims: list[PersistentVolumeClaim]
    jobs: list[Job]
    services: list[Service]
    events: list[Event]
