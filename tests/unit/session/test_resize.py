"""Size of a running desktop: what its pod is resized to, why not, and when more memory is
offered.
"""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from support.builders import GPU, a_node, a_pod, a_session, a_template
from vdi.api.template import LargestSize
from vdi.cluster.objects import Pod
from vdi.session.alerts import Alert
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import Observed
from vdi.session.resize import MemoryAlert, find_largest, find_memory_alert, find_resize

SETTINGS = ClusterSettings(requests_cpu="250m", requests_memory="1Gi")
GIB = 1 << 30
OFFER = {
    "defaultMemory": "4Gi",
    "maxMemory": "100Gi",
    "defaultCPU": "1",
    "maxCPU": "32",
    "defaultGPU": 0,
}


def a_running_pod(*conditions: dict[str, str], phase: str = "Running") -> Pod:
    resources = {
        "limits": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "250m", "memory": "1Gi", "ephemeral-storage": "5Gi"},
    }
    pod = msgspec.to_builtins(a_pod(ready=True, status={"phase": phase, "conditions": conditions}))
    pod["spec"] = {
        "nodeName": "node-1",
        "containers": [{"name": "desktop", "resources": resources}],
    }
    return msgspec.convert(pod, Pod)


def observed(*conditions: dict[str, str], **resources: str) -> Observed:
    session = a_session(resources=resources) if resources else a_session()
    template = a_template(resources=OFFER)
    return Observed(session, template, pod=a_running_pod(*conditions), node=a_node())


@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        ({"memory": "6Gi"}, {"memory": "1Gi"}),
        ({"memory": "512Mi", "cpu": "2"}, {"memory": "512Mi", "cpu": "250m"}),
        ({"memory": "4Gi", "cpu": "100m"}, {"memory": "1Gi", "cpu": "100m"}),
    ],
)
def test_pod_gets_the_sessions_size(resources: dict[str, str], requests: dict[str, str]) -> None:
    """A strategic merge patch: what it does not name, such as GPUs, stays."""
    change = {"name": "desktop", "resources": {"limits": resources, "requests": requests}}
    assert find_resize(observed(**resources), SETTINGS) == {"spec": {"containers": [change]}}


def test_same_size_in_other_words_is_no_resize() -> None:
    assert find_resize(observed(memory="4096Mi", cpu="1000m"), SETTINGS) is None


def test_only_a_size_of_the_session_itself_counts() -> None:
    larger = replace(
        observed(),
        template=a_template(resources=OFFER | {"defaultMemory": "8Gi", "defaultCPU": "4"}),
    )
    assert find_resize(larger, SETTINGS) is None
    assert (
        find_resize(replace(larger, session=a_session(resources={"memory": "4Gi"})), SETTINGS)
        is None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"pod": None},
        {"pod": a_running_pod(phase="Pending")},
        {"template": None},
        {"node": None},
        {
            "pod": msgspec.structs.replace(
                a_running_pod(), metadata=a_pod(deletionTimestamp="x").metadata
            )
        },
    ],
    ids=["no pod", "starting", "no template", "no node", "terminating"],
)
def test_only_a_running_desktop_is_resized(change: dict[str, Any]) -> None:
    assert find_resize(replace(observed(memory="6Gi"), **change), SETTINGS) is None


def pending(reason: str, status: str = "True") -> dict[str, str]:
    return {"type": "PodResizePending", "status": status, "reason": reason, "message": "no room"}


@pytest.mark.parametrize(
    ("conditions", "resources", "reason", "words"),
    [
        ([], {"memory": "101Gi"}, "Infeasible", "101Gi is more than the 100Gi that template"),
        ([], {"memory": "65Gi"}, "Infeasible", "65Gi is more than node node-1 has in total (64Gi)"),
        (
            [],
            {"memory": "4Gi", "cpu": "17"},
            "Infeasible",
            "17 is more than node node-1 has in total (16)",
        ),
        ([pending("Deferred")], {"memory": "4Gi"}, "Deferred", "no room"),
        ([pending("Infeasible")], {"memory": "4Gi"}, "Infeasible", "no room"),
    ],
)
def test_size_that_is_not_applied_has_a_reason(
    conditions: list[dict[str, str]], resources: dict[str, str], reason: str, words: str
) -> None:
    found = find_resize(observed(*conditions, **resources), SETTINGS)
    assert isinstance(found, Alert)
    assert (found.type, found.reason, words in found.message) == (
        "ResizePending",
        reason,
        True,
    ), found


def failing(message: str, reason: str = "Error", status: str = "True") -> dict[str, str]:
    return {"type": "PodResizeInProgress", "status": status, "reason": reason, "message": message}


# As Kubernetes 1.36 says it, with the usage of that moment.
IN_USE = (
    'cannot decrease memory limits: attempting to set container "desktop" memory limit (1) below'
    " current usage ({})"
)


@pytest.mark.parametrize(
    ("condition", "reason", "words"),
    [
        (failing(IN_USE.format(2)), "InUse", "uses more than its new size of 4Gi"),
        (failing("cgroup is busy"), "NotApplied", "Node node-1 fails to apply it: cgroup is busy"),
        (failing("", reason=""), None, ""),
        (failing(IN_USE.format(2), status="False"), None, ""),
    ],
)
def test_size_that_the_node_fails_to_apply_has_a_reason(
    condition: dict[str, str], reason: str | None, words: str
) -> None:
    found = find_resize(observed(condition, memory="4Gi"), SETTINGS)
    assert (found.reason if isinstance(found, Alert) else None) == reason
    assert found is None or words in found.message  # type: ignore[union-attr]


def test_each_try_of_a_node_to_apply_a_size_is_the_same_status() -> None:
    first, second = (
        find_resize(observed(failing(IN_USE.format(used)), memory="4Gi"), SETTINGS)
        for used in (5, 6)
    )
    assert first == second


def test_a_later_size_replaces_one_that_waits() -> None:
    assert isinstance(find_resize(observed(pending("Deferred"), memory="5Gi"), SETTINGS), dict)
    assert find_resize(observed(pending("Deferred", "False"), memory="4Gi"), SETTINGS) is None


@pytest.mark.parametrize(
    ("most", "limit", "alert"),
    [
        ("16Gi", 4 * GIB, MemoryAlert("{} Give it 2 GiB more?", "6Gi", "Give it 2 GiB more")),
        (
            "4608Mi",
            4 * GIB,
            MemoryAlert("{} Give it 0.5 GiB more?", "4608Mi", "Give it 0.5 GiB more"),
        ),
        ("4Gi", 4 * GIB, MemoryAlert("{} Close programs that you do not need.")),
        ("16Gi", 2 * GIB, None),
    ],
    ids=["2 GiB", "up to the maximum", "nothing more", "a resize is under way"],
)
def test_memory_is_offered_within_the_maximum(
    most: str, limit: int, alert: MemoryAlert | None
) -> None:
    template = a_template(resources={"defaultMemory": "4Gi", "maxMemory": most})
    found = find_memory_alert(a_session(), template, limit * 923 // 1000, limit)
    words = "Your desktop uses 92 % of its memory."
    assert found == (alert and alert._replace(words=alert.words.format(words)))


LARGE, SMALL = {"memory": "24581684Ki", "cpu": "4"}, {"memory": "8Gi", "cpu": "16"}


@pytest.mark.parametrize(
    ("template", "largest"),
    [
        ({}, LargestSize("24005Mi", "16000m")),
        ({"placement": {"nodeSelector": {"zone": "b"}}}, LargestSize("8192Mi", "16000m")),
        ({"placement": {"nodeSelector": {"zone": "c"}}}, None),
        ({"resources": {"defaultGPU": 1, "maxGPU": 1}}, LargestSize("8192Mi", "16000m")),
        (
            {"placement": {"tolerations": [{"operator": "Exists"}]}},
            LargestSize("262144Mi", "16000m"),
        ),
    ],
    ids=["any", "by label", "none", "with a GPU", "behind a taint"],
)
def test_largest_size_is_what_one_suitable_node_has(
    template: dict[str, Any], largest: LargestSize | None
) -> None:
    nodes = [
        a_node("large", labels={"zone": "a"}, allocatable=LARGE | {GPU: "0"}, unschedulable=True),
        a_node("small", labels={"zone": "b"}, allocatable=SMALL),
        a_node(
            "foreign",
            allocatable=LARGE | {"memory": "256Gi"},
            taints=[{"key": "db", "effect": "NoSchedule"}],
        ),
        a_node("broken", allocatable={"memory": "much"}),
    ]
    assert find_largest(a_template(**({"resources": OFFER} | template)), nodes, GPU) == largest


def test_memory_is_offered_up_to_what_a_node_has() -> None:
    template = a_template(resources={"defaultMemory": "4Gi", "maxMemory": "16Gi"})
    template.status.largest = LargestSize("5120Mi", "4000m")
    offer = find_memory_alert(a_session(), template, 4 * GIB, 4 * GIB)
    assert offer and offer.memory == "5Gi"
