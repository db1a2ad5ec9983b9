"""Nodes that are taken out of service, or vanish: announced, waited for, and never two desktops on
one home.
"""

from datetime import timedelta

import msgspec
import pytest

from cluster.operator_stage import Object, Stage, condition
from cluster.stand_in import MARK
from support.waiting import eventually
from vdi.kube.errors import TooManyRequests
from vdi.kube.resource import NODES, PODS, Resource
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import HOLD

BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


async def run_on(stage: Stage, node: str, **spec: object) -> Object:
    """A session whose pod runs on that node."""
    template = await stage.template(placement={"nodeSelector": stage.here})
    session = await stage.session(NAME, template, **spec)
    pod = await stage.pod_of(session)
    if "persistence" in spec:
        await stage.until(
            PODS,
            pod["metadata"]["name"],
            lambda found: found["spec"].get("nodeName") == node,
            f"the pod is on {node}",
        )
    else:  # there is no one here who would provide a volume, and so the scheduler waits
        await stage.bind(pod, node)
    await stage.make_ready(pod)
    await stage.reach(NAME, "Running")
    return session


async def cordon(stage: Stage, node: str, *, closed: bool = True) -> None:
    await stage.patch(NODES, node, {"spec": {"unschedulable": closed}})


async def lose(stage: Stage, node: str) -> None:
    """The node is cut off: no one reports for it any more."""
    found = await stage.patch(NODES, node, {"metadata": {"labels": {MARK: None}}})
    status = {
        "conditions": [
            {**condition(found, "Ready"), "status": "Unknown", "reason": "NodeStatusUnknown"}
        ]
    }
    await stage.patch(NODES, node, {"status": status}, subresource="status")


async def test_eviction_is_refused_until_the_notice_is_over(stage: Stage) -> None:
    """As `kubectl drain` asks, every 5 s, with the budget that the chart makes."""
    node, other = await stage.node("a"), await stage.node("b")
    template = await stage.template(placement={"nodeSelector": stage.here})
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "desktops"},
        "spec": {"minAvailable": 2147483647, "selector": {"matchLabels": {HOLD: "true"}}},
    }
    made = await stage.api.create(BUDGETS, budget, namespace=stage.namespace, into=dict)
    generation = made["metadata"]["generation"]
    await stage.until(
        BUDGETS,
        "desktops",
        lambda budget: budget.get("status", {}).get("observedGeneration") == generation,
        "in force",
    )
    async with stage.operator(cluster=ClusterSettings(drain_notice=timedelta(seconds=3))):
        await cordon(stage, other)
        session = await stage.start(NAME, template, persistence={"enabled": False})
        pod = await stage.pod_of(session)
        assert not await evict(stage, pod), "held"
        await cordon(stage, other, closed=False)
        await cordon(stage, node)
        assert not await evict(stage, pod), "held until the notice is over"
        reported = condition(await stage.warned(NAME, "Draining"), "Draining")
        assert (reported["status"], reported["reason"]) == ("True", "NodeCordoned")
        await finalizers(stage, pod, ["test.vdi.kasm.io/kubelet"])
        await eventually(lambda: evict(stage, pod), "the drain gets through")
        leaving = await stage.reach(NAME, "Creating", "must leave")
        assert condition(leaving, "PodReady")["reason"] == "Evicted"
        await finalizers(stage, pod, [])
        await moved(stage, session, other)
        running = await stage.run(NAME)
        assert running["status"]["failures"]["reason"] == "Evicted"


async def moved(stage: Stage, session: Object, node: str) -> None:
    """Wait until the session's only pod is on that node."""

    async def look() -> bool:
        return [pod["spec"].get("nodeName") for pod in await stage.owned(PODS, session)] == [node]

    await eventually(look, f"the desktop is on {node}")


async def finalizers(stage: Stage, pod: Object, names: list[str]) -> None:
    """With one an evicted pod stays for a while, as it does while a kubelet ends its programs."""
    await stage.patch(PODS, pod["metadata"]["name"], {"metadata": {"finalizers": names}})


async def evict(stage: Stage, pod: Object) -> bool:
    """Ask for an eviction; False when the budget forbids it."""
    meta = {"name": pod["metadata"]["name"], "namespace": stage.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    path = Resource("", "v1", f"pods/{meta['name']}/eviction", "Eviction")
    try:
        await stage.api.create(path, body, namespace=stage.namespace, into=msgspec.Raw)
    except TooManyRequests:
        return False
    return True


async def test_desktop_without_home_leaves_a_dead_node(stage: Stage) -> None:
    node, other = await stage.node("a"), await stage.node("b")
    template = await stage.template(placement={"nodeSelector": stage.here})
    async with stage.operator():
        await cordon(stage, other)
        session = await stage.start(NAME, template, persistence={"enabled": False})
        await cordon(stage, other, closed=False)
        await lose(stage, node)
        lost = await stage.reach(NAME, "Creating", f"The node {node} does not respond")
        assert condition(lost, "PodReady")["reason"] == "NodeLost"
        old = await stage.pod_of(session)
        # As the taint manager does after five minutes.
        await stage.delete(PODS, old["metadata"]["name"])
        await moved(stage, session, other)
        running = await stage.run(NAME)
        assert running["status"]["failures"]["reason"] == "NodeLost"


async def test_desktop_with_a_home_waits_for_a_dead_node(stage: Stage) -> None:
    node = await stage.node("a")
    async with stage.operator():
        session = await run_on(stage, node)
        await stage.node("b")
        await lose(stage, node)
        await stage.reach(NAME, "Creating", f"The node {node} does not respond")
        old = await stage.pod_of(session)
        home = next(volume for volume in old["spec"]["volumes"] if volume["name"] == "home")
        await stage.delete(PODS, old["metadata"]["name"])
        words = (
            f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        )
        waiting = await stage.reach(NAME, "Creating", words)
        assert home["persistentVolumeClaim"]["claimName"] in waiting["status"]["message"]
        (same,) = await stage.owned(PODS, session)
        assert same["metadata"]["uid"] == old["metadata"]["uid"], "it is not forced"
        # As the out-of-service taint does.
        await stage.delete(PODS, old["metadata"]["name"], grace_seconds=0)
        await stage.next_pod(session, old)


async def test_session_on_a_dead_node_can_be_deleted(stage: Stage) -> None:
    node = await stage.node("a")
    async with stage.operator():
        session = await run_on(stage, node, persistence={"enabled": False})
        await lose(stage, node)
        await stage.reach(NAME, "Creating", "does not respond")
        await stage.end(NAME)
        await stage.childless(session)
