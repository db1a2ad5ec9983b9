"""Which nodes get a puller, what a puller has come to, and what the template's status says of
it.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import CREATED, a_node, a_template
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event, Node, Pod
from vdi.cluster.units import parse_time
from vdi.session.prepull import (
    AT_ONCE,
    FIRST_PAUSE,
    PULL_TIMEOUT,
    PullMemory,
    PullPlan,
    PullResult,
    build_puller,
    can_run,
    evaluate_puller,
    image_pulled,
    plan,
    puller_name,
    spellings,
    summarise,
)

IMAGE = "registry.example.com/desktop:1"
NOW = parse_time(CREATED)
GPU = "nvidia.com/gpu"


def wanting(**spec: Any) -> VDITemplate:
    template = a_template(prePull=True, **spec)
    template.metadata.uid = "uid-template"
    return template


def a_puller(template: VDITemplate, node: str, **status: Any) -> Pod:
    body = build_puller(template, node, "vdi-sessions")
    body["metadata"] |= {"uid": f"uid-puller-{node}", "creationTimestamp": CREATED}
    body["spec"] |= {"nodeName": status.pop("on", node)}
    if "deleting" in status:
        body["metadata"]["deletionTimestamp"] = status.pop("deleting")
    return msgspec.convert(body | {"status": {"phase": "Pending", **status}}, Pod)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "pull", "image": IMAGE, "state": state}]}


DONE = {"containerStatuses": [{"name": "pull", "image": IMAGE, "imageID": "sha256:1"}]}


class PrePullSimulation:
    """Nodes and pullers of one template, planned again and again, as the operator does."""

    def __init__(self, *nodes: Node) -> None:
        self.template, self.nodes, self.memory, self.now = wanting(), list(nodes), PullMemory(), NOW

    def puller(self, node: str, **status: Any) -> Pod:
        return a_puller(self.template, node, **status)

    def plan(self, *pullers: Pod) -> PullPlan:
        pods = [(pod, ()) for pod in pullers]
        return plan(self.template, self.nodes, pods, self.memory, gpu_resource=GPU, now=self.now)

    def created(self, *pullers: Pod) -> list[str]:
        return [node.metadata.name for node in self.plan(*pullers).create]


def test_nodes_without_the_image_get_pullers_few_at_a_time() -> None:
    stage = PrePullSimulation(
        *(a_node(f"node-{n}") for n in range(6)), a_node("has", images=[IMAGE])
    )
    assert stage.created() == ["node-0", "node-1", "node-2"]
    at_work = [stage.puller(f"node-{n}") for n in range(2)]
    step = stage.plan(*at_work)
    assert ([node.metadata.name for node in step.create], step.remove) == (["node-2"], ())
    progress = summarise(step, stage.memory)
    assert (progress.desired, progress.ready, progress.pulling) == (
        7,
        1,
        ("node-0", "node-1", "node-2"),
    )


def test_finished_puller_counts_without_the_nodes_report() -> None:
    stage = PrePullSimulation(a_node())
    puller = stage.puller("node-1", phase="Succeeded")
    step = stage.plan(puller)
    assert (step.remove, step.create, summarise(step, stage.memory).ready) == ((puller,), (), 1)
    assert stage.created() == []


def test_image_is_pulled_again_where_it_is_gone() -> None:
    stage = PrePullSimulation(a_node("lost", images=[IMAGE]), a_node("replaced"))
    assert stage.created() == ["replaced"]
    stage.plan(stage.puller("replaced", **DONE))
    stage.nodes = [a_node("lost"), a_node("replaced", uid="another")]
    assert stage.created() == ["lost", "replaced"]


def test_changed_image_is_pulled_everywhere_and_old_pullers_go() -> None:
    stage = PrePullSimulation(a_node("node-1", images=[IMAGE]), a_node("node-2"))
    old = stage.puller("node-2")
    stage.template.spec.image = "registry.example.com/desktop:2"
    step = stage.plan(old)
    assert step.remove == (old,)
    assert [node.metadata.name for node in step.create] == ["node-1", "node-2"]
    assert puller_name(stage.template, "node-2") != old.metadata.name


def test_puller_of_a_node_that_is_out_of_the_question_is_removed() -> None:
    stage = PrePullSimulation(a_node(unschedulable=True))
    puller = stage.puller("node-1")
    assert stage.plan(puller).remove == (puller,)
    stage.nodes = [a_node("node-1", images=[IMAGE])]
    assert stage.plan(puller).remove == (puller,), "somebody else has brought the image there"
    of_an_earlier_template = stage.puller("node-1")
    stage.template.metadata.uid = "another"
    stage.nodes = [a_node(uid="of-a-new-node")]
    assert stage.plan(of_an_earlier_template).remove == (of_an_earlier_template,)


def test_puller_that_is_leaving_keeps_its_place() -> None:
    stage = PrePullSimulation(a_node())
    step = stage.plan(stage.puller("node-1", deleting=CREATED, phase="Failed"))
    assert (step.create, step.remove) == ((), ())


def test_failure_is_reported_and_tried_again_with_growing_pauses() -> None:
    stage = PrePullSimulation(a_node())
    refused = stage.puller("node-1", **waiting("ErrImagePull", "manifest unknown"))
    pause = FIRST_PAUSE
    for _ in range(3):
        step = stage.plan(refused)
        assert (step.remove, step.create, step.again) == ((refused,), (), stage.now + pause)
        (failed,) = summarise(step, stage.memory).failed
        assert (failed.node, failed.reason) == ("node-1", "ImageNotFound")
        assert "the registry has no such image" in failed.message
        assert stage.created() == []
        stage.now += pause
        pause *= 2
        assert stage.created() == ["node-1"]
    assert stage.plan(stage.puller("node-1", **DONE)).create == ()
    assert stage.memory.failures == {}


def test_broken_nodes_do_not_keep_the_others_waiting() -> None:
    stage = PrePullSimulation(
        *(a_node(f"a{n}") for n in range(3)), *(a_node(f"b{n}") for n in range(3))
    )
    stage.plan(*(stage.puller(f"a{n}", **waiting("ErrImagePull", "x")) for n in range(3)))
    stage.now += FIRST_PAUSE
    assert stage.created() == ["b0", "b1", "b2"]


ON_NODE: list[tuple[dict[str, Any], PullResult | None]] = [
    ({}, None),
    (waiting("ContainerCreating"), None),
    (DONE, PullResult(pulled=True)),
    ({"phase": "Succeeded"}, PullResult(pulled=True)),
    ({"phase": "Failed", **DONE}, PullResult(pulled=True)),
    (waiting("CreateContainerError", "no command specified"), PullResult(pulled=True)),
    (waiting("RunContainerError"), PullResult(pulled=True)),
    (
        {
            "phase": "Failed",
            "reason": "OutOfpods",
            "message": "Node didn't have enough resource: pods.",
        },
        PullResult(
            False,
            "PullerFailed",
            "The pod that pulls the image ended before it was complete (OutOfpods: Node didn't have"
            " enough resource: pods).",
        ),
    ),
    (
        waiting("InvalidImageName", "couldn't parse"),
        PullResult(
            False,
            "ImageNameInvalid",
            f"The image {IMAGE} cannot be pulled: its name is not a valid image name; fix the"
            " template's spec.image.",
        ),
    ),
]


@pytest.mark.parametrize(("status", "verdict"), ON_NODE)
def test_puller_is_judged_by_what_the_kubelet_says(
    status: dict[str, Any], verdict: PullResult | None
) -> None:
    assert evaluate_puller(a_puller(wanting(), "node-1", **status), (), NOW) == verdict


def test_trouble_that_may_pass_counts_after_a_while() -> None:
    full = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/1 nodes are available: 1 Too many pods.",
    }
    unplaced = a_puller(wanting(), "node-1", on="", conditions=[full])
    assert evaluate_puller(unplaced, (), NOW + PULL_TIMEOUT - timedelta(seconds=1)) is None
    verdict = evaluate_puller(unplaced, (), NOW + PULL_TIMEOUT)
    assert verdict == PullResult(
        False,
        "NoRoom",
        "The node has no capacity for the small pod that pulls the image (0/1 nodes are available:"
        " 1 Too many pods).",
    )
    event = {"metadata": {"name": "e"}, "reason": "FailedCreatePodSandBox", "note": "cni is down"}
    no_network = msgspec.convert(event, Event)
    stuck = a_puller(wanting(), "node-1", **waiting("ContainerCreating"))
    assert evaluate_puller(stuck, (no_network,), NOW) is None
    verdict = evaluate_puller(stuck, (no_network,), NOW + PULL_TIMEOUT)
    assert verdict == PullResult(
        False, "NodeNetwork", "The node cannot set up the pod: cni is down."
    )
    assert evaluate_puller(stuck, (), NOW + timedelta(minutes=50)) is None, (
        "a large image takes its time"
    )


TAINT = {"key": "gpu", "effect": "NoSchedule"}
NODES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({"unschedulable": True}, {}, False),
    ({"allocatable": {GPU: "0"}}, {}, False),
    ({"allocatable": {GPU: "0"}}, {"resources": {"defaultGPU": 0}}, True),
    ({"labels": {"room": "b"}}, {"placement": {"nodeSelector": {"room": "a"}}}, False),
    ({"taints": [TAINT]}, {}, False),
    (
        {"taints": [TAINT]},
        {"placement": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
        True,
    ),
]


@pytest.mark.parametrize(("node", "spec", "holds"), NODES)
def test_only_nodes_that_may_run_the_desktop_count(
    node: dict[str, Any], spec: dict[str, Any], holds: bool
) -> None:
    assert can_run(a_node(**node), wanting(**spec), GPU) is holds


NAMES = [
    ("ubuntu", "docker.io/library/ubuntu:latest"),
    ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
    ("ubuntu:24.04", "ubuntu:24.04"),
    ("linuxserver/webtop", "docker.io/linuxserver/webtop:latest"),
    ("docker.io/ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
    ("index.docker.io/library/ubuntu", "docker.io/library/ubuntu:latest"),
    ("localhost/vdi/desktop:dev", "localhost/vdi/desktop:dev"),
    ("registry:5000/desktop", "registry:5000/desktop:latest"),
    ("ghcr.io/a/b:1@sha256:00", "ghcr.io/a/b@sha256:00"),
]


@pytest.mark.parametrize(("given", "named"), NAMES)
def test_image_is_recognised_by_the_name_that_the_node_uses(given: str, named: str) -> None:
    assert named in spellings(given)


def test_condition_says_how_far_it_is_and_why_not_further() -> None:
    stage = PrePullSimulation()

    def verdict(*pullers: Pod) -> tuple[str, str, str]:
        condition = image_pulled(stage.template, summarise(stage.plan(*pullers), stage.memory), NOW)
        stage.template.status.conditions = (condition,)
        return condition.status, condition.reason, condition.message

    assert verdict()[:2] == ("False", "NoNodes")
    stage.nodes = [a_node("node-1"), a_node("node-2", images=[IMAGE])]
    assert verdict() == ("False", "Pulling", "1 of 2 nodes have the image.")
    status, reason, message = verdict(
        stage.puller("node-1", **waiting("ErrImagePull", "x509: unknown"))
    )
    assert (status, reason) == ("False", "PullFailed")
    assert (
        message.startswith("1 of 2 nodes have the image. node-1: The image")
        and "certificate" in message
    )
    stage.nodes = [a_node("node-1", images=[IMAGE]), a_node("node-2", images=[IMAGE])]
    assert verdict() == ("True", "Pulled", "")


def test_puller_is_restricted_and_asks_for_next_to_nothing() -> None:
    secrets = [{"name": "registry"}]
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    template = wanting(imagePullSecrets=secrets, placement={"tolerations": tolerations})
    body = build_puller(template, "node-1", "vdi-sessions")
    spec = body["spec"]
    (container,) = spec["containers"]
    assert (spec["imagePullSecrets"], spec["tolerations"]) == (secrets, tolerations)
    assert container["resources"]["requests"] == {"cpu": "10m", "memory": "16Mi"}
    assert GPU not in container["resources"]["limits"]
    assert (
        spec["securityContext"]["runAsNonRoot"]
        and not container["securityContext"]["allowPrivilegeEscalation"]
    )
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "vdi.kasm.io/session" not in body["metadata"]["labels"]
    assert len(puller_name(a_template(), "n" * 253)) <= 63


@given(st.lists(st.sampled_from(["lacks", "has", "cordoned"]), max_size=12), st.data())
def test_pulling_reaches_every_node_few_at_a_time(kinds: list[str], data: st.DataObject) -> None:
    """Whatever the pullers come to: at most three at a time, and in the end every node has the
    image.
    """
    nodes = [
        a_node(
            f"node-{n}", images=[IMAGE] if kind == "has" else [], unschedulable=kind == "cordoned"
        )
        for n, kind in enumerate(kinds)
    ]
    stage = PrePullSimulation(*nodes)
    pullers: dict[str, Pod] = {}
    for turn in range(400):
        step = stage.plan(*pullers.values())
        for pod in step.remove:
            del pullers[pod.metadata.name]
        for node in step.create:
            pod = stage.puller(node.metadata.name)
            assert pod.metadata.name not in pullers
            pullers[pod.metadata.name] = pod
        assert len(pullers) <= AT_ONCE
        progress = summarise(step, stage.memory)
        assert progress.ready + len(progress.pulling) <= progress.desired
        if progress.ready == progress.desired:
            break
        for name, pod in pullers.items():
            fate = data.draw(st.sampled_from(["works", "fails", "done"])) if turn < 20 else "done"
            status = {"works": {}, "fails": waiting("ErrImagePull", "no"), "done": DONE}[fate]
            pullers[name] = stage.puller(pod.spec.node_name, **status)
        stage.now += timedelta(minutes=1)
    assert progress.desired == sum(kind != "cordoned" for kind in kinds)
    assert progress.ready == progress.desired and not pullers


def test_time_of_the_next_look_is_never_in_the_past() -> None:
    stage = PrePullSimulation(a_node())
    stage.now = NOW + timedelta(hours=1)
    step = stage.plan(stage.puller("node-1"))
    assert isinstance(step.again, datetime) and step.again > stage.now
