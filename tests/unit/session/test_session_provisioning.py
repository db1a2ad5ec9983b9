"""ProvisioningRequests: how many of each shape, which are deleted first, and the autoscaler's conditions in words."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support.builders import CREATED, GPU
from unit.session.queueing_world import a_demand
from vdi.session.autoscaling import NodeRequest, shape_key
from vdi.session.capacity_matching import Demand
from vdi.session.children.provisioning_request import build_pod_template, build_provisioning_request
from vdi.session.provisioning import (
    SHAPE,
    PodTemplate,
    ProvisioningRequest,
    find_provisioning,
    plan_requests,
    template_name,
)
from vdi.session.times import parse_time

CPU = a_demand(gpu=0)
ONE_GPU = a_demand(gpu=1)
NOW = parse_time(CREATED) + timedelta(minutes=1)
LATER = parse_time(CREATED) + timedelta(minutes=11)


def a_request(demand: Demand, number: int, *conditions: dict[str, Any], made: str = CREATED, **meta: Any) -> Any:
    name = f"{template_name(demand)}-{number}"
    metadata = {"name": name, "uid": f"uid-{name}", "labels": {SHAPE: shape_key(demand)}, "creationTimestamp": made}
    return msgspec.convert({"metadata": metadata | meta, "status": {"conditions": conditions}}, ProvisioningRequest)


def a_template(demand: Demand) -> PodTemplate:
    metadata = {"name": template_name(demand), "uid": "uid-t", "labels": {SHAPE: shape_key(demand)}}
    return msgspec.convert({"metadata": metadata}, PodTemplate)


def is_so(kind: str, reason: str = "R", message: str = "", *, status: str = "True", minute: int = 0) -> dict[str, Any]:
    at = f"2026-11-20T08:{minute:02d}:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}


ACCEPTED = is_so("Accepted", "Accepted", "ProvisioningRequest is accepted by ClusterAutoscaler")
PROVISIONED = is_so("Provisioned", "CapacityIsProvisioned", "Capacity is found in the cluster")
REFUSED = is_so("Provisioned", "CapacityIsNotFound", "Capacity is not found, CA will ...", status="False")
FAILED = is_so("Failed", "Expired", "ProvisioningRequest is expired")
UNREAD = is_so("Failed", "FailedToCreatePods", "missing pod templates, 1 pod templates were not found")
EXPIRED = is_so("BookingExpired", "CapacityReservationTimeExpired", "Capacity reservation time is expired")
REVOKED = is_so("CapacityRevoked", "Reclaimed", "the reservation was reclaimed.")


def test_a_request_for_each_session_and_a_pod_template_for_each_shape() -> None:
    plan = plan_requests({ONE_GPU: 2, CPU: 1}, [], [], NOW)
    assert plan.create_templates == (ONE_GPU, CPU)
    names = [f"{template_name(ONE_GPU)}-0", f"{template_name(ONE_GPU)}-1", f"{template_name(CPU)}-0"]
    assert [name for name, _ in plan.create] == names
    assert (plan.delete, plan.delete_templates) == ((), ())


def test_what_is_there_is_not_requested_again_and_what_no_one_needs_is_deleted() -> None:
    needed, spare = a_request(ONE_GPU, 0), a_request(CPU, 0)
    plan = plan_requests({ONE_GPU: 1}, [needed, spare], [a_template(ONE_GPU), a_template(CPU)], NOW)
    assert (plan.create_templates, plan.create) == ((), ())
    assert plan.delete == (spare,)
    assert [template.metadata.name for template in plan.delete_templates] == [template_name(CPU)]


def test_of_too_many_the_one_with_a_node_goes_first_then_the_failed_one_then_the_youngest() -> None:
    made = a_request(ONE_GPU, 0), a_request(ONE_GPU, 1, made="2026-11-20T08:00:05Z")
    failed, provisioned = a_request(ONE_GPU, 2, FAILED), a_request(ONE_GPU, 3, PROVISIONED)
    everything = [*made, failed, provisioned]
    assert plan_requests({ONE_GPU: 3}, everything, [], NOW).delete == (provisioned,)
    assert plan_requests({ONE_GPU: 2}, everything, [], NOW).delete == (provisioned, failed)
    assert plan_requests({ONE_GPU: 1}, everything, [], NOW).delete == (provisioned, failed, made[1])


@pytest.mark.parametrize("condition", [FAILED, REFUSED, PROVISIONED])
def test_a_refused_request_stays_and_none_takes_its_place(condition: dict[str, Any]) -> None:
    request = a_request(ONE_GPU, 0, ACCEPTED, condition)
    plan = plan_requests({ONE_GPU: 1}, [request], [a_template(ONE_GPU)], LATER + timedelta(days=3))
    assert (plan.create, plan.delete, plan.lapsed) == ((), (), False)


@pytest.mark.parametrize("condition", [EXPIRED, REVOKED, UNREAD])
def test_capacity_that_was_lost_is_requested_again_ten_minutes_after_the_last_time(condition: dict[str, Any]) -> None:
    request = a_request(ONE_GPU, 0, ACCEPTED, PROVISIONED, condition)
    early = plan_requests({ONE_GPU: 1}, [request], [a_template(ONE_GPU)], NOW)
    assert (early.create, early.delete, early.lapsed) == ((), (), True)
    late = plan_requests({ONE_GPU: 1}, [request], [a_template(ONE_GPU)], LATER)
    assert late.delete == (request,)
    assert [name for name, _ in late.create] == [f"{template_name(ONE_GPU)}-1"], "the name is free when it is gone"
    assert not late.lapsed


def test_one_that_is_terminating_is_not_counted_and_its_name_is_not_used() -> None:
    leaving = a_request(ONE_GPU, 0, deletionTimestamp=CREATED)
    plan = plan_requests({ONE_GPU: 1}, [leaving], [a_template(ONE_GPU)], NOW)
    assert [name for name, _ in plan.create] == [f"{template_name(ONE_GPU)}-1"]
    assert plan.delete == ()


AT = "requested at 08:00:00 UTC"


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([], "A node was requested at 08:00:00 UTC."),
        ([ACCEPTED], f"The autoscaler looks for a node ({AT})."),
        ([ACCEPTED, PROVISIONED], f"A node is being added ({AT})."),
        (
            [ACCEPTED, is_so("Provisioned", "CapacityIsFound", "Capacity is found in the cluster")],
            f"The autoscaler has found capacity and does not add a node ({AT}).",
        ),
        ([ACCEPTED, REFUSED], f"The autoscaler cannot add a node: it finds no capacity and retries later ({AT})."),
        (
            [is_so("Provisioned", "FailedToCheckCapacity", "Failed to check capacity.", status="False")],
            f"The autoscaler cannot add a node: Failed to check capacity ({AT}).",
        ),
        (
            [ACCEPTED, REFUSED, FAILED],
            f"The autoscaler cannot add a node and does not retry: ProvisioningRequest is expired ({AT}).",
        ),
        (
            [ACCEPTED, PROVISIONED, REVOKED],
            f"The autoscaler has taken the capacity back: the reservation was reclaimed ({AT}). "
            "It is requested again 10 minutes after that.",
        ),
        (
            [ACCEPTED, PROVISIONED, EXPIRED],
            "The autoscaler no longer keeps the capacity that was requested at 08:00:00 UTC. "
            "It is requested again 10 minutes after that.",
        ),
        (
            [UNREAD],
            "The autoscaler could not read the request: missing pod templates, 1 pod templates were not found "
            f"({AT}). It is requested again 10 minutes after that.",
        ),
        ([is_so("Failed", "Reason", "")], f"The autoscaler cannot add a node and does not retry: Reason ({AT})."),
    ],
)
def test_the_conditions_in_words(conditions: list[dict[str, Any]], message: str) -> None:
    request = a_request(ONE_GPU, 0, *conditions)
    assert find_provisioning([ONE_GPU, CPU], [request]) == {ONE_GPU: NodeRequest(CREATED, message)}


def test_of_several_requests_a_node_on_its_way_is_said_first_then_the_newest_answer() -> None:
    failed = a_request(ONE_GPU, 0, is_so("Failed", "Expired", "too old", minute=1))
    refused = a_request(ONE_GPU, 1, ACCEPTED, {**REFUSED, "lastTransitionTime": "2026-11-20T08:02:00Z"})
    growing = a_request(ONE_GPU, 2, ACCEPTED, PROVISIONED)
    leaving = a_request(ONE_GPU, 3, ACCEPTED, PROVISIONED, deletionTimestamp=CREATED)
    (found,) = find_provisioning([ONE_GPU], [failed, refused, growing]).values()
    assert found.message == f"A node is being added ({AT})."
    (found,) = find_provisioning([ONE_GPU], [refused, failed, leaving]).values()
    assert found.message == f"The autoscaler cannot add a node: it finds no capacity and retries later ({AT})."


def test_the_request_names_the_pod_template_which_has_the_shape() -> None:
    template = build_pod_template(ONE_GPU, "places", image="i:1")
    request = build_provisioning_request(ONE_GPU, "r-0", "places")
    assert request["spec"] == {
        "provisioningClassName": "best-effort-atomic-scale-up.autoscaling.x-k8s.io",
        "podSets": [{"count": 1, "podTemplateRef": {"name": template["metadata"]["name"]}}],
    }
    assert template["template"]["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}
    assert "priorityClassName" not in template["template"]["spec"], "the desktop has its own priority"
    assert template["metadata"]["labels"][SHAPE] == request["metadata"]["labels"][SHAPE] == shape_key(ONE_GPU)
