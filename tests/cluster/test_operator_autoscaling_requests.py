"""ProvisioningRequests on a real API server with a real scheduler.

cluster-autoscaler could not be had: the test plays it. The kind's schema is written from the published Go types of
`autoscaling.x-k8s.io/v1`, and the test writes the conditions that cluster-autoscaler writes.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cluster.operator_stage import Object, Stage
from cluster.test_operator_autoscaling import Autoscaler, on_node
from cluster.test_operator_crash import MOMENTS, MOST_WRITES, Moment, cut_and_kill
from cluster.test_operator_queue import gpu_template, queue_of, running, starts, waits
from support.clock import ShiftedClock
from support.waiting import eventually
from vdi.kube.errors import AlreadyExists
from vdi.kube.resource import CRDS, POD_TEMPLATES
from vdi.operator.kinds import PROVISIONING_REQUESTS, SESSIONS
from vdi.session.autoscaling import AutoscalingMode
from vdi.session.provisioning import SHAPE

pytestmark = pytest.mark.timeout(200)
_TWO_STARTS_SECONDS = 90.0
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
IMMUTABLE = [{"rule": "self == oldSelf", "message": "Value is immutable"}]
NAME = {"type": "string", "maxLength": 253, "pattern": NAME_PATTERN}
CONDITION: Object = {
    "type": "object",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
        "message": {"type": "string", "maxLength": 32768},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
    },
}
POD_SET: Object = {
    "type": "object",
    "required": ["count", "podTemplateRef"],
    "properties": {
        "count": {"type": "integer", "format": "int32", "minimum": 1},
        "podTemplateRef": {"type": "object", "required": ["name"], "properties": {"name": NAME}},
    },
}
SPEC: Object = {
    "type": "object",
    "required": ["podSets", "provisioningClassName"],
    "properties": {
        "podSets": {
            "type": "array",
            "minItems": 1,
            "maxItems": 32,
            "items": POD_SET,
            "x-kubernetes-validations": IMMUTABLE,
        },
        "provisioningClassName": {**NAME, "x-kubernetes-validations": IMMUTABLE},
        "parameters": {
            "type": "object",
            "maxProperties": 100,
            "additionalProperties": {"type": "string", "maxLength": 255},
            "x-kubernetes-validations": IMMUTABLE,
        },
    },
}
STATUS: Object = {
    "type": "object",
    "properties": {
        "conditions": {
            "type": "array",
            "items": CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
        "provisioningClassDetails": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
CRD: Object = {
    "apiVersion": CRDS.api_version,
    "kind": CRDS.kind,
    "metadata": {
        "name": f"{PROVISIONING_REQUESTS.plural}.{PROVISIONING_REQUESTS.group}",
        # The API server wants it of groups that end in k8s.io.
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/50"},
    },
    "spec": {
        "group": PROVISIONING_REQUESTS.group,
        "names": {"plural": PROVISIONING_REQUESTS.plural, "kind": PROVISIONING_REQUESTS.kind},
        "scope": "Namespaced",
        "versions": [
            {
                "name": PROVISIONING_REQUESTS.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {"spec": SPEC, "status": STATUS},
                    }
                },
            }
        ],
    },
}


class RequestedAutoscaler(Autoscaler):
    """cluster-autoscaler with `--enable-provisioning-requests`, played by the test."""

    async def prepare(self) -> None:
        await super().prepare()
        api, name = self.stage.api, CRD["metadata"]["name"]
        with suppress(AlreadyExists):
            await api.create(CRDS, CRD, into=msgspec.Raw)

        async def is_served() -> bool:
            found = await api.get(CRDS, name, into=dict)
            conditions = found.get("status", {}).get("conditions") or []
            return any(known["type"] == "Established" and known["status"] == "True" for known in conditions)

        await eventually(is_served, "ProvisioningRequests are served")

    def variables(self) -> dict[str, str]:
        return super().variables() | {"VDI_AUTOSCALING_MODE": "ProvisioningRequest"}

    async def requests(self) -> list[Object]:
        """All of them, the first made first."""
        found = await self.stage.api.list(PROVISIONING_REQUESTS, namespace=self.namespace, into=dict)
        return sorted(found, key=lambda request: request["metadata"]["name"])

    async def templates(self) -> list[Object]:
        return await self.stage.api.list(POD_TEMPLATES, namespace=self.namespace, label_selector=SHAPE, into=dict)

    async def requested(self, count: int, seconds: float = 30.0) -> list[Object]:
        """Wait for so many requests."""

        async def look() -> bool:
            return len(await self.requests()) == count

        await eventually(look, f"{count} ProvisioningRequests", seconds)
        return await self.requests()

    async def nothing_left(self, seconds: float = 30.0) -> None:
        """Wait until neither a request nor a PodTemplate is there."""

        async def look() -> bool:
            return not await self.requests() and not await self.templates()

        await eventually(look, "no ProvisioningRequest and no PodTemplate", seconds)

    async def answer(self, request: Object, *conditions: tuple[str, str, str, str]) -> None:
        """Write conditions: type, status, reason, message."""
        name, now = request["metadata"]["name"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        given = [
            {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}
            for kind, status, reason, message in (ACCEPTED, *conditions)
        ]
        await self.stage.api.patch(
            PROVISIONING_REQUESTS,
            name,
            {"status": {"conditions": given}},
            namespace=self.namespace,
            subresource="status",
            into=dict,
        )


ACCEPTED = ("Accepted", "True", "Accepted", "ProvisioningRequest is accepted by ClusterAutoscaler")
PROVISIONED = ("Provisioned", "True", "CapacityIsProvisioned", "Capacity is found in the cluster")
NOT_FOUND = ("Provisioned", "False", "CapacityIsNotFound", "Capacity is not found, CA will try to find it later.")
FAILED = ("Failed", "True", "Expired", "ProvisioningRequest is expired")
REVOKED = ("CapacityRevoked", "True", "Reclaimed", "the reservation was reclaimed")


@pytest.fixture
async def autoscaler(stage: Stage) -> AsyncIterator[RequestedAutoscaler]:
    autoscaler = RequestedAutoscaler(stage)
    await autoscaler.prepare()
    yield autoscaler
    await autoscaler.clean_up()


def by_requests(autoscaler: Autoscaler, **chosen: Any) -> Any:
    return autoscaler.settings(AutoscalingMode.PROVISIONING_REQUEST, **chosen)


@pytest.mark.long
async def test_from_no_node_to_running_desktops_and_back(stage: Stage, autoscaler: RequestedAutoscaler) -> None:
    template = await gpu_template(stage)
    async with stage.operator(autoscaling=by_requests(autoscaler)):
        await stage.session("first", template, user="a@x.yz")
        created = time.monotonic()
        (request,) = await autoscaler.requested(1)
        sys.stderr.write(f"\n{time.monotonic() - created:.2f} s from a waiting session to its request\n")
        (pod_template,) = await autoscaler.templates()
        assert request["spec"] == {
            "provisioningClassName": "best-effort-atomic-scale-up.autoscaling.x-k8s.io",
            "podSets": [{"count": 1, "podTemplateRef": {"name": pod_template["metadata"]["name"]}}],
        }
        (container,) = pod_template["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
        session = await waits(stage, "first", "NoMatchingNode", "A node was requested at")
        assert queue_of(session)["nodeRequestTime"]
        await autoscaler.answer(request)
        await waits(stage, "first", "NoMatchingNode", "The autoscaler looks for a node (requested at ")
        await autoscaler.answer(request, PROVISIONED)
        session = await waits(stage, "first", "NoMatchingNode", "A node is being added (requested at ")
        sys.stderr.write(f"{session['status']['message']}\n")
        await stage.session("second", template, user="b@x.yz")
        requests = await autoscaler.requested(2)

        node = await stage.node("gpu", gpu="1")
        await starts(stage, "first")
        await on_node(stage, "first", node)
        (left,) = await autoscaler.requested(1)
        assert left["metadata"]["uid"] == requests[1]["metadata"]["uid"], "the request that got its node is done"
        assert await autoscaler.placeholders() == []
        await stage.delete(SESSIONS, "second")
        await autoscaler.nothing_left()


@pytest.mark.long
async def test_a_refusal_is_said_and_nothing_is_requested_again(stage: Stage, autoscaler: RequestedAutoscaler) -> None:
    await stage.node("gpu", gpu="1")
    template = await gpu_template(stage)
    clock = ShiftedClock()
    async with stage.operator(clock, autoscaling=by_requests(autoscaler)):
        await running(stage, template, 1)
        await stage.session("late", template, user="late@x.yz")
        (request,) = await autoscaler.requested(1)
        await autoscaler.answer(request, NOT_FOUND)
        await waits(stage, "late", "GPUsBusy", "cannot add a node: it finds no capacity and retries later")
        await autoscaler.answer(request, NOT_FOUND, FAILED)
        session = await waits(stage, "late", "GPUsBusy", "does not retry: ProvisioningRequest is expired")
        sys.stderr.write(f"\n{session['status']['message']}\n")
        stage.proxy.passed.clear()
        clock.ahead = timedelta(minutes=30)
        for number in range(3):  # three changes later
            await stage.session(f"other{number}", "unknown", user="o@x.yz")
            await stage.reach(f"other{number}", "Pending")
        assert [known["metadata"]["uid"] for known in await autoscaler.requests()] == [request["metadata"]["uid"]]
        assert not [sent for sent in stage.proxy.passed if sent.is_write and autoscaler.namespace in sent.path]


@pytest.mark.long
async def test_capacity_that_is_taken_back_is_said_and_requested_again_after_a_while(
    stage: Stage, autoscaler: RequestedAutoscaler
) -> None:
    template = await gpu_template(stage)
    clock = ShiftedClock()
    async with stage.operator(clock, autoscaling=by_requests(autoscaler)):
        await stage.session("first", template)
        (request,) = await autoscaler.requested(1)
        await autoscaler.answer(request, PROVISIONED, REVOKED)
        await waits(stage, "first", "NoMatchingNode", "has taken the capacity back: the reservation was reclaimed")
        assert len(await autoscaler.requests()) == 1
        clock.ahead = timedelta(minutes=11)

        async def is_renewed() -> bool:
            uids = [known["metadata"]["uid"] for known in await autoscaler.requests()]
            return len(uids) == 1 and uids != [request["metadata"]["uid"]]

        await eventually(is_renewed, "another request")
        await waits(stage, "first", "NoMatchingNode", "A node was requested at")


async def test_headroom_is_kept_by_placeholders(stage: Stage, autoscaler: RequestedAutoscaler) -> None:
    node = await stage.node("gpu", gpu="1")
    template = await gpu_template(stage)
    async with stage.operator(autoscaling=by_requests(autoscaler, headroom={template: 1})):
        await autoscaler.has(1)
        await stage.session("first", template, user="a@x.yz")
        await on_node(stage, "first", node)
        await autoscaler.unschedulable(1)
        assert await autoscaler.requests() == [], "no session waits"


@pytest.mark.parametrize("served", [True, False])
async def test_auto_takes_placeholders_where_the_api_is_not_served(
    stage: Stage, autoscaler: RequestedAutoscaler, served: bool
) -> None:
    template = await gpu_template(stage)
    stage.proxy.missing = set() if served else {PROVISIONING_REQUESTS.plural}
    async with stage.operator(autoscaling=autoscaler.settings(AutoscalingMode.AUTO)):
        await stage.session("first", template)
        if served:
            await autoscaler.requested(1)
        else:
            await autoscaler.has(1)
        await waits(stage, "first", "NoMatchingNode", "A node was requested at")
        assert (len(await autoscaler.requests()), len(await autoscaler.placeholders())) == (served, not served)


async def _nothing_left(autoscaler: RequestedAutoscaler) -> Object | None:
    await autoscaler.nothing_left(_TWO_STARTS_SECONDS)
    return None


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_kill_at_any_write_leaves_neither_two_requests_nor_one_for_good(
    stage: Stage, autoscaler: RequestedAutoscaler, moment: Moment
) -> None:
    template = await gpu_template(stage)
    stage.variables = autoscaler.variables()
    for write in range(1, MOST_WRITES):
        name = f"w{write}"
        await stage.session(name, template)
        stage.proxy.cut_at(write, moment)
        done = asyncio.create_task(stage.reach(name, "Pending", "A node was requested at", _TWO_STARTS_SECONDS))
        was_cut = await cut_and_kill(stage, done, _TWO_STARTS_SECONDS)
        async with stage.operator(autoscaling=by_requests(autoscaler)):
            await done
            await autoscaler.requested(1)
            assert len(await autoscaler.templates()) == 1
        await stage.delete(SESSIONS, name)
        stage.proxy.cut_at(write, moment)
        gone = asyncio.create_task(_nothing_left(autoscaler))
        was_cut = await cut_and_kill(stage, gone, _TWO_STARTS_SECONDS) or was_cut
        async with stage.operator(autoscaling=by_requests(autoscaler)):
            await gone
            await stage.gone(SESSIONS, name)
        if not was_cut:
            assert write > 4, f"the operator got through with {write - 1} writes: what has it not done?"
            return
    raise AssertionError(f"still writing after {MOST_WRITES} writes")
