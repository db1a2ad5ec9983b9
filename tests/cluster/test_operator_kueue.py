"""Desktops that Kueue admits, on a real API server. The test plays Kueue, which could not be had: its webhook adds the
scheduling gate, its controller makes the Workload, says why it waits, and removes the gate."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import RBAC, Object, Stage
from cluster.test_operator_queue import gpu_template
from support.clock import ShiftedClock
from support.permissions import kueue_rules
from support.waiting import eventually
from vdi.kube.errors import AlreadyExists
from vdi.kube.resource import CRDS, PODS, Resource
from vdi.operator.kinds import SESSIONS, WORKLOADS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(150)
GATE = "kueue.x-k8s.io/admission"
QUEUE = "kueue.x-k8s.io/queue-name"
NO_QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a"
SETTINGS = ClusterSettings(kueue_local_queue="desktops")


def add_gate(request: Request, body: bytes) -> bytes:
    """Kueue's webhook: a pod with a queue's name waits for Kueue."""
    if request.method != "POST" or not request.path.endswith("/pods"):
        return body
    pod = json.loads(body)
    if QUEUE in pod["metadata"]["labels"]:
        pod["spec"]["schedulingGates"] = [{"name": GATE}]
        pod["metadata"]["labels"]["kueue.x-k8s.io/managed"] = "true"
    return json.dumps(pod).encode()


class Kueue:
    """Kueue's controller."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def prepare(self) -> None:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {
            "name": WORKLOADS.version,
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": anything},
            "subresources": {"status": {}},
        }
        names = {"plural": WORKLOADS.plural, "singular": "workload", "kind": WORKLOADS.kind}
        name = f"{WORKLOADS.plural}.{WORKLOADS.group}"
        crd: Object = {"apiVersion": CRDS.api_version, "kind": CRDS.kind, "metadata": {"name": name}}
        crd["spec"] = {"group": WORKLOADS.group, "names": names, "scope": "Namespaced", "versions": [version]}
        api, user = self.stage.api, f"operator-of-{self.stage.namespace}"
        with suppress(AlreadyExists):
            await api.create(CRDS, crd, into=msgspec.Raw)

        async def is_served() -> bool:
            found = await api.get(CRDS, name, into=dict)
            conditions = found.get("status", {}).get("conditions") or []
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        await eventually(is_served, "the Workloads are served")
        role: Object = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": "kueue"}}
        roles, bindings = (Resource(RBAC, "v1", kind, kind) for kind in ("roles", "rolebindings"))
        where = self.stage.namespace
        await api.create(roles, {**role, "rules": kueue_rules()}, namespace=where, into=msgspec.Raw)
        binding = {**role, "kind": "RoleBinding", "subjects": [{"kind": "User", "name": user}]}
        binding["roleRef"] = {"kind": "Role", "name": "kueue", "apiGroup": RBAC}
        await api.create(bindings, binding, namespace=where, into=msgspec.Raw)

    async def refuse(self, pod: Object, message: str) -> None:
        """Make the Workload of a pod, which waits for quota."""
        meta = pod["metadata"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "controller": True}
        name = f"pod-{meta['name']}-1a2b3"
        body: Object = {"apiVersion": WORKLOADS.api_version, "kind": WORKLOADS.kind}
        body["metadata"] = {"name": name, "ownerReferences": [owner]}
        await self.stage.api.create(WORKLOADS, body, namespace=self.stage.namespace, into=msgspec.Raw)
        condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
        condition["lastTransitionTime"] = "2026-11-20T08:00:00Z"
        await self.stage.patch(WORKLOADS, name, {"status": {"conditions": [condition]}}, subresource="status")

    async def admit(self, pod: Object) -> None:
        """Remove the gate."""
        await self.stage.patch(PODS, pod["metadata"]["name"], {"spec": {"schedulingGates": None}})


@pytest.fixture
async def kueue(stage: Stage) -> Kueue:
    kueue = Kueue(stage)
    await kueue.prepare()
    stage.proxy.mutate = add_gate
    return kueue


async def pod_of(stage: Stage, name: str) -> Object:
    session = await stage.get(SESSIONS, name)
    assert session
    return await stage.pod_of(session)


async def test_a_desktop_waits_in_kueues_queue_says_why_and_starts_when_it_is_admitted(
    stage: Stage, kueue: Kueue
) -> None:
    node = await stage.node("gpu", gpu="1")
    template = await gpu_template(stage)
    clock = ShiftedClock()
    async with stage.operator(clock, cluster=SETTINGS):
        await stage.session("first", template)
        pod = await pod_of(stage, "first")
        assert pod["metadata"]["labels"][QUEUE] == "desktops"
        await stage.reach("first", "Creating", "waits in Kueue's queue 'desktops'", 30)
        await kueue.refuse(pod, NO_QUOTA)
        session = await stage.reach("first", "Creating", f"waits in Kueue's queue 'desktops': {NO_QUOTA}.", 30)
        assert "startTime" not in session["status"], "waiting uses no time of the run"
        assert "expiresAt" not in session["status"]

        clock.ahead = timedelta(minutes=10)
        await stage.patch(SESSIONS, "first", {"metadata": {"annotations": {"looked": "1"}}})
        await stage.session("second", template, user="b@x.yz")  # its pod shows that the operator has gone on
        assert (await pod_of(stage, "second"))["metadata"]["name"] == "second"
        assert (await pod_of(stage, "first"))["metadata"]["uid"] == pod["metadata"]["uid"], "not taken back after 15 s"

        await kueue.admit(pod)

        async def is_bound() -> Any:
            return (await pod_of(stage, "first"))["spec"].get("nodeName") == node

        await eventually(is_bound, "the scheduler has it")
        session = await stage.run("first")
        assert session["status"]["startTime"]
        assert session["status"]["nodeName"] == node
