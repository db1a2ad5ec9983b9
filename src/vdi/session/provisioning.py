"""Which ProvisioningRequests ask cluster-autoscaler for nodes, and what it answers in their conditions. Pure.

One request per waiting session, each for one pod: so an autoscaler that can add two of five nodes adds two. Their class
is `best-effort-atomic-scale-up`: the other one, `check-capacity`, adds no node.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.session.autoscaling import NodeRequest, shape_key
from vdi.session.capacity_matching import Demand
from vdi.session.observed import PodCondition, PodMeta
from vdi.session.times import parse_time

SHAPE = "vdi.kasm.io/node-request"
"""Label of a ProvisioningRequest and of its PodTemplate: the key of the shape."""
_PREFIX = "node-request"
_RENEW_AFTER = timedelta(minutes=10)
"""From a request to the next one in its place, when what it got was lost: as long as the autoscaler books capacity."""
_NO_CAPACITY = "CapacityIsNotFound"
_FOUND = "CapacityIsFound"
_NO_TEMPLATE = "FailedToCreatePods"
"""Reason of `Failed` where the autoscaler has not seen the PodTemplate yet: no refusal."""


class ProvisioningRequestStatus(msgspec.Struct, gc=False):
    """`status` of a ProvisioningRequest."""

    conditions: tuple[PodCondition, ...] = ()


class ProvisioningRequest(msgspec.Struct, gc=False):
    """A request for capacity (`autoscaling.x-k8s.io`), which cluster-autoscaler answers."""

    metadata: PodMeta
    status: ProvisioningRequestStatus = msgspec.field(default_factory=ProvisioningRequestStatus)

    def condition(self, kind: str) -> PodCondition | None:
        """The condition of this type."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    def is_true(self, kind: str) -> bool:
        """Whether the condition of this type is there and holds."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"


class PodTemplate(msgspec.Struct, gc=False):
    """A PodTemplate, to which ProvisioningRequests refer."""

    metadata: PodMeta


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What is to be done, in this order: a request without its PodTemplate fails for good."""

    create_templates: tuple[Demand, ...]
    create: tuple[tuple[str, Demand], ...]
    """Names, with the shape of each."""
    delete: tuple[ProvisioningRequest, ...]
    delete_templates: tuple[PodTemplate, ...]
    lapsed: bool
    """Whether a request has lost its capacity, and is to be replaced later."""


def template_name(demand: Demand) -> str:
    """The PodTemplate of a shape."""
    return f"{_PREFIX}-{shape_key(demand)}"


def plan_requests(
    counts: Mapping[Demand, int],
    requests: Iterable[ProvisioningRequest],
    templates: Iterable[PodTemplate],
    now: datetime,
) -> RequestPlan:
    """Which requests are missing, and which are too many: `counts` has how many each shape is to have.

    Of too many, those that have got their node go first: a session takes it. Then those that failed, then the youngest.
    A request that failed stays as long as sessions wait, so nothing is asked a second time after a refusal.
    """
    by_key: dict[str, list[ProvisioningRequest]] = defaultdict(list)
    for request in requests:
        by_key[request.metadata.labels.get(SHAPE, "")].append(request)
    create: list[tuple[str, Demand]] = []
    delete: list[ProvisioningRequest] = []
    lapsed = False
    for demand, count in counts.items():
        present = by_key.pop(shape_key(demand), [])
        live = []
        for request in present:
            if request.metadata.deletion_timestamp is not None:
                continue
            if not _has_lapsed(request):
                live.append(request)
            elif now - parse_time(request.metadata.creation_timestamp) < _RENEW_AFTER:
                live.append(request)
                lapsed = True
            else:
                delete.append(request)
        if len(live) > count:
            live.sort(key=lambda request: (request.metadata.creation_timestamp, request.metadata.name), reverse=True)
            live.sort(key=_rank)
            delete += live[: len(live) - count]
        taken = {request.metadata.name for request in present}
        names = (f"{template_name(demand)}-{number}" for number in range(count + len(present)))
        free = (name for name in names if name not in taken)
        create += [(name, demand) for name, _ in zip(free, range(count - len(live)), strict=False)]
    for present in by_key.values():
        delete += [request for request in present if request.metadata.deletion_timestamp is None]
    by_template = {template.metadata.name: template for template in templates}
    missing = tuple(demand for demand in counts if by_template.pop(template_name(demand), None) is None)
    return RequestPlan(missing, tuple(create), tuple(delete), tuple(by_template.values()), lapsed)


def find_provisioning(demands: Iterable[Demand], requests: Iterable[ProvisioningRequest]) -> dict[Demand, NodeRequest]:
    """The open requests of each shape, with the autoscaler's answer in words."""
    by_key: dict[str, list[ProvisioningRequest]] = defaultdict(list)
    for request in requests:
        if request.metadata.deletion_timestamp is None:
            by_key[request.metadata.labels.get(SHAPE, "")].append(request)
    found = {}
    for demand in demands:
        if of_shape := by_key.get(shape_key(demand)):
            time = min(request.metadata.creation_timestamp for request in of_shape)
            found[demand] = NodeRequest(time, _describe(of_shape, f"{parse_time(time):%H:%M:%S} UTC"))
    return found


def _has_lapsed(request: ProvisioningRequest) -> bool:
    """Whether another request could get what this one lost. No refusal: the autoscaler has said yes, or not looked."""
    failed = request.condition("Failed")
    if failed is not None and failed.status == "True":
        return failed.reason == _NO_TEMPLATE
    return request.is_true("BookingExpired") or request.is_true("CapacityRevoked")


def _rank(request: ProvisioningRequest) -> int:
    """Which goes first of too many."""
    if request.is_true("Failed"):
        return 1
    return 0 if request.is_true("Provisioned") else 2


def _describe(requests: Iterable[ProvisioningRequest], at: str) -> str:
    newest: tuple[str, str] | None = None
    accepted = False
    for request in requests:
        accepted = accepted or request.is_true("Accepted")
        answer = _answer(request, at)
        if answer is None:
            continue
        if not _has_lapsed(request) and not request.is_true("Failed") and request.is_true("Provisioned"):
            return answer[1]
        newest = max(newest, answer) if newest else answer
    if newest:
        return newest[1]
    return f"The autoscaler looks for a node (requested at {at})." if accepted else f"A node was requested at {at}."


def _answer(request: ProvisioningRequest, at: str) -> tuple[str, str] | None:
    """When the autoscaler answered, and what; None: not yet."""
    for kind in ("Failed", "CapacityRevoked", "BookingExpired"):
        condition = request.condition(kind)
        if condition is not None and condition.status == "True":
            return condition.last_transition_time, _describe_end(condition, at)
    condition = request.condition("Provisioned")
    if condition is None:
        return None
    return condition.last_transition_time, _describe_provisioned(condition, at)


def _describe_end(condition: PodCondition, at: str) -> str:
    reason = condition.message.strip().rstrip(".") or condition.reason
    again = "It is requested again 10 minutes after that"
    if condition.type == "CapacityRevoked":
        return f"The autoscaler has taken the capacity back: {reason} (requested at {at}). {again}."
    if condition.type == "BookingExpired":
        return f"The autoscaler no longer keeps the capacity that was requested at {at}. {again}."
    if condition.reason == _NO_TEMPLATE:
        return f"The autoscaler could not read the request: {reason} (requested at {at}). {again}."
    return f"The autoscaler cannot add a node and does not retry: {reason} (requested at {at})."


def _describe_provisioned(condition: PodCondition, at: str) -> str:
    if condition.status == "True":
        if condition.reason == _FOUND:
            return f"The autoscaler has found capacity and does not add a node (requested at {at})."
        return f"A node is being added (requested at {at})."
    if condition.reason == _NO_CAPACITY:
        return f"The autoscaler cannot add a node: it finds no capacity and retries later (requested at {at})."
    reason = condition.message.strip().rstrip(".") or condition.reason
    return f"The autoscaler cannot add a node: {reason} (requested at {at})."
