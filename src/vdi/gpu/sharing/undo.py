"""The way back to what was before the first `vdi gpu configure`, from what it noted then. Pure."""

from typing import Any

from vdi.gpu.sharing.changes import CLUSTER_POLICIES, Change, change_between, with_field
from vdi.gpu.sharing.plan import CONFIG_PATH, NOTE_PATH, SharingPlan, restarts_for, with_pod_parts
from vdi.gpu.sharing.refusals import plain_plugin, target_name
from vdi.gpu.sharing.request import RefusedError
from vdi.gpu.sharing.state import (
    BEFORE_ANNOTATION,
    CONFIG_LABEL,
    OUR_VOLUME,
    ConfigMap,
    GpuState,
    Node,
    has_our_volume,
    read_record,
)
from vdi.kube.resource import CONFIG_MAPS, NODES


def plan_undo(state: GpuState) -> SharingPlan:
    """Back to what was before the first `vdi gpu configure`, except where somebody has chosen otherwise since.

    Raises RefusedError when nothing was noted.
    """
    name = target_name(state)
    there = state.config_maps.get(name)
    record = read_record(there.raw) if there else None
    if there is None or record is None:
        found = "does not exist" if there is None else f"has no annotation {BEFORE_ANNOTATION}"
        raise RefusedError(
            [
                f"There is nothing to undo: ConfigMap {state.namespace}/{name} {found}, so `vdi gpu configure` did"
                " not make these settings."
            ]
        )
    rollout = _undo_policy(state, record) if state.policy is not None else _undo_daemon_set(state)
    maps = _undo_config_map(there, record)
    nodes = [change for node in state.nodes if (change := _undo_node(node, record))]
    changes = tuple(change for change in (*nodes, rollout, maps) if change is not None)
    return SharingPlan(changes, restarts_for(state, data_changes=True, rolls_anyway=rollout is not None))


def _undo_node(node: Node, record: dict[str, Any]) -> Change | None:
    noted = read_record(node.raw)
    if noted is None:
        return None
    after = with_field(node.raw, NOTE_PATH, None)
    if "config" in noted and node.label(CONFIG_LABEL) in record.get("keys", {}):
        after = with_field(after, ("metadata", "labels", CONFIG_LABEL), noted["config"])
    return change_between(NODES, node.raw, after)


def _undo_policy(state: GpuState, record: dict[str, Any]) -> Change | None:
    policy = state.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    if policy.config.get("name") != target_name(state):
        return None
    return change_between(CLUSTER_POLICIES, policy.raw, with_field(policy.raw, CONFIG_PATH, record.get("policy")))


def _undo_daemon_set(state: GpuState) -> Change | None:
    plugin = plain_plugin(state)
    if plugin is None or not has_our_volume(plugin):
        return None
    main = dict(plugin.main or {})
    folder = f"/{OUR_VOLUME}/"
    main["env"] = [
        variable
        for variable in main.get("env") or ()
        if not (variable["name"] == "CONFIG_FILE" and str(variable.get("value", "")).startswith(folder))
    ]
    main["volumeMounts"] = [
        volume_mount for volume_mount in main.get("volumeMounts") or () if volume_mount["name"] != OUR_VOLUME
    ]
    volumes = [volume for volume in plugin.pod_spec.get("volumes") or () if volume["name"] != OUR_VOLUME]
    return with_pod_parts(plugin, {key: value for key, value in main.items() if value}, volumes)


def _undo_config_map(there: ConfigMap, record: dict[str, Any]) -> Change | None:
    data: dict[str, str] = there.data
    for key, old in record.get("keys", {}).items():
        data.pop(key, None)
        if old is not None:
            data[key] = old
    if record.get("made") and not data:
        return change_between(CONFIG_MAPS, there.raw, None)
    after = with_field(with_field(there.raw, NOTE_PATH, None), ("data",), data)
    return change_between(CONFIG_MAPS, there.raw, after)
