"""From what is there and what is desired to the changes; the cluster's part is played as its
components document it.
"""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tools.generate.gpu_files import render_manifests
from unit.gpu.gpu_states import (
    EIGHT,
    LATER,
    LONG_AGO,
    SEVERAL,
    a_config_map,
    a_daemon_set,
    a_node,
    a_policy,
    a_static_plugin,
    configured,
    fresh,
    labelled,
    node_of,
    plan_configure,
    plan_undo,
    played,
    raw_of,
    shared,
    unlabelled,
)
from unit.gpu.test_gpu_sharing import MISSION
from vdi.gpu.sharing.changes import diff_lines, patch_between
from vdi.gpu.sharing.config import RENAMED, Sharing
from vdi.gpu.sharing.findings import find
from vdi.gpu.sharing.plan import (
    RefusedError,
    SharingRequest,
    default_key,
    notes_on,
    parse_request,
    state_after,
)
from vdi.gpu.sharing.state import CONFIG_LABEL, GpuNode, GpuState, lacks_encoder
from vdi.snapshot.objects import convert_object


def helm(observed: GpuState, **config: str) -> GpuState:
    """No GPU Operator: the chart nvidia-device-plugin with a ConfigMap, whose default is
    `config0`.
    """
    plugin = a_daemon_set("nvdp", config_map="configs", default="config0", fallbacks="named,single")
    maps = {"configs": a_config_map(LONG_AGO, "configs", **(config or {"config0": "version: v1"}))}
    return replace(observed, policy=None, plugins=(plugin,), config_maps=maps)


def static(observed: GpuState) -> GpuState:
    """No GPU Operator: NVIDIA's static manifest."""
    return replace(observed, policy=None, plugins=(a_static_plugin(),))


def refusal(observed: GpuState, request: SharingRequest = EIGHT) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        plan_configure(observed, request)
    return refused.value


# --- what is changed


def test_fresh_operator() -> None:
    plan = plan_configure(fresh(), EIGHT)
    assert [step.title for step in plan.changes] == [
        "make ConfigMap gpu-operator/time-slicing-config",
        "change ClusterPolicy cluster-policy",
    ]
    assert plan.changes[1].patch == {
        "spec": {"devicePlugin": {"config": {"name": "time-slicing-config", "default": "any"}}}
    }
    # The GPU Operator gives the DaemonSets another template, so they start again.
    assert plan.restarts == ()


def test_manifests_say_what_configure_does() -> None:
    config_map, patch = (yaml.safe_load(text) for text in render_manifests().values())
    done = configured()
    assert done.config_map and done.policy
    assert config_map["data"] == {"any": MISSION} == done.config_map.data
    assert config_map["metadata"] == {"name": "time-slicing-config", "namespace": "gpu-operator"}
    assert patch == {
        "spec": {"devicePlugin": {"config": raw_of(done.policy.spec.device_plugin.config)}}
    }


def test_the_config_map_comes_before_what_names_it() -> None:
    plan = plan_configure(fresh(a_node("a"), a_node("b"), a_node("c")), SEVERAL)
    assert [step.resource.kind for step in plan.changes] == [
        "ConfigMap",
        "Node",
        "Node",
        "ClusterPolicy",
    ]


def test_the_missions_patch_gets_its_default() -> None:
    """As the mission's document leaves it: the name without the default."""
    plugin = a_daemon_set(config_map="time-slicing-config")
    observed = replace(
        fresh(),
        policy=a_policy({"name": "time-slicing-config"}),
        plugins=(plugin,),
        config_maps={"time-slicing-config": a_config_map(any=MISSION)},
    )
    plan = plan_configure(observed, EIGHT)
    assert [step.patch for step in plan.changes][-1] == {
        "spec": {"devicePlugin": {"config": {"default": "any"}}}
    }
    assert "data" not in plan.changes[0].patch  # only the note for the undo
    assert find(played(observed, plan)) == []


def test_other_replicas_restart_what_reads_the_config_map() -> None:
    plan = plan_configure(configured(), SharingRequest({"any": Sharing(4)}, "any"))
    assert [step.title for step in plan.changes] == [
        "change ConfigMap gpu-operator/time-slicing-config"
    ]
    assert [restart.name for restart in plan.restarts] == [
        "nvidia-device-plugin-daemonset",
        "gpu-feature-discovery",
    ]


def test_a_label_alone_restarts_nothing() -> None:
    observed = configured(a_node("a"), a_node("b"), a_node("c"), request=replace(SEVERAL, nodes={}))
    plan = plan_configure(observed, SEVERAL)
    assert [step.patch["metadata"]["labels"] for step in plan.changes] == [
        {CONFIG_LABEL: "big"},
        {CONFIG_LABEL: "whole"},
    ]
    assert plan.restarts == ()


def test_an_interrupted_run_is_taken_up_where_it_was() -> None:
    """Killed between ConfigMap and restart: the pods are older than the ConfigMap."""
    observed = configured()
    old_pod = {"name": "x", "creationTimestamp": LONG_AGO}
    old = tuple(
        replace(plugin, pods=(convert_object("pods", {"metadata": old_pod}),))
        for plugin in observed.plugins
    )
    earlier = observed.config_maps["time-slicing-config"]
    newer = a_config_map(LATER, **earlier.data)
    newer.metadata.annotations = earlier.metadata.annotations
    maps = {"time-slicing-config": newer}
    plan = plan_configure(replace(observed, plugins=old, config_maps=maps, readers=()), EIGHT)
    assert plan.changes == ()
    assert [restart.name for restart in plan.restarts] == ["nvidia-device-plugin-daemonset"]


def test_what_others_have_in_the_config_map_stays() -> None:
    maps = {"time-slicing-config": a_config_map(theirs="version: v1")}
    plan = plan_configure(replace(fresh(), config_maps=maps), EIGHT)
    assert plan.changes[0].after is not None
    assert plan.changes[0].after["data"] == {"theirs": "version: v1", "any": MISSION}
    assert "theirs" not in plan.changes[0].patch["data"]


def test_helm_chart_keeps_its_default_and_its_daemon_set() -> None:
    observed = helm(fresh())
    assert default_key(observed, None) == "config0"
    plan = plan_configure(observed, SharingRequest({"config0": Sharing()}, "config0"))
    assert [step.title for step in plan.changes] == ["change ConfigMap gpu-operator/configs"]
    assert [restart.name for restart in plan.restarts] == ["nvdp"]


def test_static_plugin_gets_a_volume() -> None:
    observed = static(fresh())
    plan = plan_configure(observed, EIGHT)
    assert [step.title for step in plan.changes] == [
        "make ConfigMap gpu-operator/time-slicing-config",
        "change DaemonSet gpu-operator/nvidia-device-plugin-daemonset",
    ]
    reported = state_after(observed, plan)
    assert reported.config_name == "time-slicing-config"
    assert find(played(observed, plan)) == []
    assert plan_configure(played(observed, plan), EIGHT).empty


def test_without_feature_discovery_the_count_of_before_is_noted() -> None:
    observed = static(fresh(unlabelled(a_node(gpus=2))))
    assert find(played(observed, plan_configure(observed, EIGHT))) == []


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.data())
def test_a_plan_converges_and_its_undo_reverts_it(gpus: list[int], data: Any) -> None:
    nodes = [a_node(f"n{i}", count) for i, count in enumerate(gpus)]
    if data.draw(st.booleans(), "a label of somebody's"):
        nodes[0] = labelled(nodes[0], "theirs")
    theirs = data.draw(
        st.sampled_from(
            [None, {"theirs": "version: v1"}, {"any": MISSION, "theirs": "version: v1"}]
        )
    )
    if nodes[0].label(CONFIG_LABEL) and theirs is None:
        theirs = {"theirs": "version: v1"}
    before = fresh(*nodes)
    if theirs is not None:
        before = replace(
            before, config_maps={"time-slicing-config": a_config_map(LONG_AGO, **theirs)}
        )
    names = st.sampled_from(["any", "big", "whole"])
    chosen = data.draw(st.dictionaries(st.sampled_from([node.name for node in nodes]), names))
    counts = {
        name: Sharing(data.draw(st.integers(1, 50)), data.draw(st.booleans()))
        for name in ("any", "big", "whole")
    }
    request = SharingRequest(counts, data.draw(names), chosen)

    done = played(before, plan_configure(before, request))
    assert find(done) == []
    assert plan_configure(done, request).empty
    again = played(
        done,
        plan_configure(done, replace(request, configs={**counts, request.default: Sharing(3)})),
    )

    back = played(again, plan_undo(again))
    assert [node.node.metadata.labels for node in back.nodes] == [
        node.node.metadata.labels for node in before.nodes
    ]
    assert back.policy == before.policy
    assert {name: config_map.data for name, config_map in back.config_maps.items()} == {
        name: config_map.data for name, config_map in before.config_maps.items()
    }


def test_what_somebody_chose_since_is_not_undone() -> None:
    done = configured(a_node("a"), a_node("b"), a_node("c"), request=SEVERAL)
    theirs = a_policy({"name": "theirs", "default": "own"})
    nodes = (done.nodes[0], labelled(done.nodes[1], "own"), done.nodes[2])
    plan = plan_undo(replace(done, policy=theirs, nodes=nodes))
    assert [step.title for step in plan.changes] == [
        "change Node b",
        "change Node c",
        "delete ConfigMap gpu-operator/time-slicing-config",
    ]
    assert "labels" not in plan.changes[0].patch["metadata"]
    assert plan.changes[1].patch["metadata"]["labels"] == {CONFIG_LABEL: None}


def test_undo_of_a_static_plugin() -> None:
    before = static(fresh(unlabelled(a_node())))
    done = played(before, plan_configure(before, EIGHT))
    reported = state_after(done, plan_undo(done))
    assert reported.plugins[0].workload == before.plugins[0].workload
    assert reported.config_maps == {}
    assert reported.nodes[0].node.metadata.annotations == {}


def test_a_plugins_own_settings_stay_when_it_gets_ours() -> None:
    """Its structs have none of these fields, and a merge patch replaces lists as a whole."""
    observed = static(fresh())
    workload = raw_of(observed.plugins[0].workload)
    (main,) = workload["spec"]["template"]["spec"]["containers"]
    main |= {"securityContext": {"privileged": True}, "env": [{"name": "OTHER", "value": "1"}]}
    key = ("daemonsets", "gpu-operator", "nvidia-device-plugin-daemonset")
    change = plan_configure(replace(observed, originals={key: workload}), EIGHT).changes[-1]
    (patched,) = change.patch["spec"]["template"]["spec"]["containers"]
    assert patched["securityContext"] == {"privileged": True}
    assert [variable["name"] for variable in patched["env"]] == ["OTHER", "CONFIG_FILE"]


def test_undo_of_a_helm_chart_restarts_it() -> None:
    before = helm(fresh())
    done = state_after(
        before, plan_configure(before, SharingRequest({"config0": Sharing()}, "config0"))
    )
    plan = plan_undo(done)
    assert state_after(done, plan).config_maps["configs"].data == {"config0": "version: v1"}
    assert [restart.name for restart in plan.restarts] == ["nvdp"]


def test_nothing_to_undo() -> None:
    by_hand = replace(configured(), config_maps={"time-slicing-config": a_config_map(any=MISSION)})
    for observed, words in ((fresh(), "does not exist"), (by_hand, "has no annotation")):
        with pytest.raises(RefusedError, match=words):
            plan_undo(observed)


# Objects of the API have no nulls but in lists, which a merge patch replaces as a whole.
plain = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner | st.none(), max_size=3)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from("abcd"), plain, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(objects, objects)
def test_the_merge_patch_makes_the_one_of_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = patch_between(before, after)
    assert merged(before, patch) == after
    assert (patch == {}) == (before == after)


def test_the_diff_leaves_out_server_fields() -> None:
    lines = diff_lines(
        plan_configure(configured(), SharingRequest({"any": Sharing(4)}, "any")).changes[0]
    )
    assert [line for line in lines if line[0] in "+-"] == [
        "--- ConfigMap gpu-operator/time-slicing-config (now)",
        "+++ ConfigMap gpu-operator/time-slicing-config (then)",
        "-          replicas: 8",
        "+          replicas: 4",
    ]


# --- what is refused


@pytest.mark.parametrize(
    ("sharing", "configs", "nodes", "words"),
    [
        (Sharing(0), (), (), "--replicas is 0; allowed: a whole number from 1 up"),
        (Sharing(-1), (), (), "--replicas is -1"),
        (Sharing(mig_strategy="mixed"), (), (), "--mig-strategy is 'mixed'; allowed: none, single"),
        (Sharing(mig_strategy="no"), (), (), "--mig-strategy is 'no'; allowed: none, single"),
        (Sharing(), ("big=0",), (), "--config is 'big=0', its replicas are '0'"),
        (Sharing(), ("big",), (), "its replicas are ''"),
        (Sharing(), ("big=²",), (), "its replicas are '²'"),
        (Sharing(), ("a b=2",), (), "its name is 'a b'; allowed: 1 to 63 letters"),
        (Sharing(), ("any=2",), (), "--config names 'any' twice"),
        (
            Sharing(),
            (),
            ("gpu-1=big",),
            "--node is 'gpu-1=big'; allowed: NODE=NAME, with NAME one of any",
        ),
        (Sharing(), (), ("gpu-1",), "--node is 'gpu-1'"),
        (Sharing(), (), ("gpu-1=any", "gpu-1=any"), "--node names node 'gpu-1' twice"),
    ],
)
def test_typed_wrongly(
    sharing: Sharing, configs: tuple[str, ...], nodes: tuple[str, ...], words: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_request(sharing, "any", configs, nodes)
    assert refused.value.usage
    assert words in str(refused.value)


def test_all_that_was_typed_wrongly_is_said_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        parse_request(Sharing(0), "any", ["big=0"], ["gpu-1=none"])
    assert len(refused.value.problems) == 3


def test_unknown_node() -> None:
    cpu = node_of({"metadata": {"name": "cpu-1"}, "status": {"capacity": {"cpu": "4"}}})
    error = refusal(fresh(a_node(), cpu), replace(EIGHT, nodes={"gpu-9": "any", "cpu-1": "any"}))
    assert error.usage
    assert error.problems == (
        "--node names 'gpu-9', which is not in this cluster; allowed: gpu-1.",
        "--node names 'cpu-1', which has no GPU that Kubernetes knows of; allowed: gpu-1.",
    )


def broken_mig(strategy: str) -> GpuNode:
    return a_node("gpu-1", 7, {"gpu.product": "NVIDIA-A100-MIG-1g.5gb", "mig.strategy": strategy})


@pytest.mark.parametrize(
    ("observed", "sharing_request", "words"),
    [
        (fresh(shared(a_node("m", 1, {"mps.capable": "true"}))), EIGHT, "Node m is shared by MPS"),
        (
            replace(
                fresh(),
                config_maps={"time-slicing-config": a_config_map(any=MISSION.replace("timeSlicing", "mps"))},
            ),
            EIGHT,
            "Key any of ConfigMap gpu-operator/time-slicing-config has sharing.mps",
        ),
        (fresh(broken_mig("single")), EIGHT, "migStrategy would be none; allowed: --mig-strategy single"),
        (fresh(a_node("n", 1, {"mig.config": "all-1g.5gb"})), EIGHT, "partitioned by MIG (strategy single)"),
        (
            fresh(node_of({"metadata": {"name": "n"}, "status": {"capacity": {"nvidia.com/mig-1g.5gb": "7"}}})),
            SharingRequest({"any": Sharing(mig_strategy="single")}, "any"),
            "advertises MIG devices separately (nvidia.com/mig-1g.5gb)",
        ),
        (replace(fresh(), nodes=()), EIGHT, "No node has a GPU"),
        (replace(fresh(), policy=None, plugins=()), EIGHT, "device plugin: none; allowed: exactly one"),
        (fresh(labelled(a_node(), "big")), EIGHT, "has the label nvidia.com/device-plugin.config=big"),
        (helm(fresh()), EIGHT, "the configuration 'config0', not 'any'; allowed: --default config0"),
        (static(fresh()), SharingRequest({"any": Sharing(), "b": Sharing(2)}, "any"), "same configuration"),
        (
            replace(fresh(), policy=None, plugins=(a_static_plugin(CONFIG_FILE="/etc/x.yaml"),)),
            EIGHT,
            "CONFIG_FILE is '/etc/x.yaml'",
        ),
    ],
    ids=[
        "mps-node", "mps-key", "mig-single", "mig-config", "mig-mixed", "no-gpus", "no-plugin",
        "label-names-nothing", "other-default", "static-several", "file-of-the-host",
    ],
)  # fmt: skip
def test_refused(observed: GpuState, sharing_request: SharingRequest, words: str) -> None:
    error = refusal(observed, sharing_request)
    assert words in str(error)
    assert not error.usage


def test_the_gpu_operator_may_make_its_daemon_set_later() -> None:
    assert len(plan_configure(replace(fresh(), plugins=()), EIGHT).changes) == 2


def test_policy_with_the_plugin_switched_off() -> None:
    policy = a_policy(None)
    policy.spec.device_plugin.enabled = False
    assert "enabled is false; allowed: true" in str(refusal(replace(fresh(), policy=policy)))


def test_a_gpu_cut_by_mig_is_shared_with_the_right_strategy() -> None:
    request = SharingRequest({"any": Sharing(2, mig_strategy="single")}, "any")
    done = configured(broken_mig("single"), request=request)
    assert find(done) == []
    assert done.nodes[0].allocatable("nvidia.com/gpu") == 14


# --- what is said beside it


def notes(observed: GpuState, request: SharingRequest = EIGHT) -> str:
    return "\n".join(notes_on(state_after(observed, plan_configure(observed, request))))


def test_gpus_without_an_encoder_are_named() -> None:
    observed = fresh(
        a_node("gpu-a"), a_node("gpu-h", labels={"gpu.product": "NVIDIA-H100-80GB-HBM3"})
    )
    said = "gpu-h: these GPUs have no video encoder (NVENC): desktops there encode on the CPU."
    assert said in list(notes_on(observed))
    assert said in notes(observed)


@pytest.mark.parametrize(
    ("products", "lacks"),
    [
        (
            (
                "NVIDIA-A100-SXM4-80GB NVIDIA-A100-PCIE-40GB-MIG-1g.5gb A100-SXM4-40GB-SHARED"
                " NVIDIA-A30"
            ),
            True,
        ),
        ("NVIDIA-H100-80GB-HBM3 NVIDIA-H200 NVIDIA-GH200-480GB", True),
        (
            (
                "NVIDIA-L4 NVIDIA-L40S NVIDIA-A10 NVIDIA-A16 NVIDIA-A2 Tesla-T4"
                " NVIDIA-RTX-A3000-Laptop-GPU unknown"
            ),
            False,
        ),
    ],
    ids=["of an older generation", "of a newer one", "for desktops"],
)
def test_gpus_for_computing_alone_cannot_encode(products: str, lacks: bool) -> None:
    assert [product for product in products.split() if lacks_encoder(product) is not lacks] == []
    assert not lacks_encoder("")


def test_what_settings_and_cluster_bring_with_them() -> None:
    request = SharingRequest(
        {"any": Sharing(rename=True, fail_requests_greater_than_one=True)}, "any"
    )
    observed = replace(
        fresh(a_node(k3s="+k3s1")), policy=a_policy(None, mig={"strategy": "single"})
    )
    said = notes(observed, request)
    assert f"gpuResource={RENAMED}" in said
    assert "UnexpectedAdmissionError" in said
    assert "RuntimeClass nvidia itself; it is not created here" in said
    assert "mig.strategy single, which overrides" in said


def test_less_than_what_is_in_use() -> None:
    busy = replace(configured().nodes[0], in_use=6)
    observed = replace(configured(), nodes=(busy,))
    assert "6 GPU slots are in use, and it will have 4" in notes(
        observed, SharingRequest({"any": Sharing(4)}, "any")
    )


def test_a_chart_that_helm_owns() -> None:
    observed = helm(fresh())
    observed.plugins[0].workload.metadata.annotations = {"meta.helm.sh/release-name": "nvdp"}
    said = notes(observed, SharingRequest({"config0": Sharing()}, "config0"))
    assert "Helm release nvdp: also set config.name=configs and config.default=config0" in said
