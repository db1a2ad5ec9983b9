"""The way back to what was before the first `vdi gpu configure`, from what it noted then. Pure."""

from typing import Any

from vdi.gpu.observed import BEFORE, CONFIG_LABEL, OUR_VOLUME, ConfigMap, Node, Observed, has_our_volume, parsed_record
from vdi.gpu.refusals import plain_plugin, target_name
from vdi.gpu.steps import CLUSTER_POLICIES, Step, changed, step_between
from vdi.gpu.time_slicing import CONFIG_PATH, NOTE_PATH, Plan, restarts_for, with_pod_parts
from vdi.gpu.wish import RefusedError
from vdi.kube.resource import CONFIG_MAPS, NODES


def plan_undo(observed: Observed) -> Plan:
    """Back to what was before the first `vdi gpu configure`, except where somebody has chosen otherwise since.

    Raises RefusedError when nothing was noted.
    """
    name = target_name(observed)
    there = observed.config_maps.get(name)
    record = parsed_record(there.raw) if there else None
    if there is None or record is None:
        found = "does not exist" if there is None else f"has no annotation {BEFORE}"
        raise RefusedError(
            [
                f"There is nothing to undo: ConfigMap {observed.namespace}/{name} {found}, so `vdi gpu configure` did"
                " not make these settings."
            ]
        )
    rollout = _undo_policy(observed, record) if observed.policy is not None else _undo_daemon_set(observed)
    maps = _undo_config_map(there, record)
    nodes = [step for node in observed.nodes if (step := _undo_node(node, record))]
    steps = tuple(step for step in (*nodes, rollout, maps) if step is not None)
    return Plan(steps, restarts_for(observed, data_changes=True, rolls_anyway=rollout is not None))


def _undo_node(node: Node, record: dict[str, Any]) -> Step | None:
    noted = parsed_record(node.raw)
    if noted is None:
        return None
    after = changed(node.raw, NOTE_PATH, None)
    if "config" in noted and node.label(CONFIG_LABEL) in record.get("keys", {}):
        after = changed(after, ("metadata", "labels", CONFIG_LABEL), noted["config"])
    return step_between(NODES, node.raw, after)


def _undo_policy(observed: Observed, record: dict[str, Any]) -> Step | None:
    policy = observed.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    if policy.config.get("name") != target_name(observed):
        return None
    return step_between(CLUSTER_POLICIES, policy.raw, changed(policy.raw, CONFIG_PATH, record.get("policy")))


def _undo_daemon_set(observed: Observed) -> Step | None:
    plugin = plain_plugin(observed)
    if plugin is None or not has_our_volume(plugin):
        return None
    main = dict(plugin.main or {})
    folder = f"/{OUR_VOLUME}/"
    main["env"] = [
        each
        for each in main.get("env") or ()
        if not (each["name"] == "CONFIG_FILE" and str(each.get("value", "")).startswith(folder))
    ]
    main["volumeMounts"] = [each for each in main.get("volumeMounts") or () if each["name"] != OUR_VOLUME]
    volumes = [each for each in plugin.pod_spec.get("volumes") or () if each["name"] != OUR_VOLUME]
    return with_pod_parts(plugin, {key: value for key, value in main.items() if value}, volumes)


def _undo_config_map(there: ConfigMap, record: dict[str, Any]) -> Step | None:
    data: dict[str, str] = there.data
    for key, old in record.get("keys", {}).items():
        data.pop(key, None)
        if old is not None:
            data[key] = old
    if record.get("made") and not data:
        return step_between(CONFIG_MAPS, there.raw, None)
    after = changed(changed(there.raw, NOTE_PATH, None), ("data",), data)
    return step_between(CONFIG_MAPS, there.raw, after)
