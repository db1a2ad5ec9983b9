"""From the state and the request to the changes between them, or to the reasons against it. Pure.

    ConfigMap -> labels and notes of nodes -> ClusterPolicy (or DaemonSet) -> restart of what has not read it

The order matters: a label or a policy that names a configuration which is not there yet keeps the device plugin down.
"""

import json
from dataclasses import dataclass
from typing import Any

from vdi.gpu.sharing.changes import CLUSTER_POLICIES, Change, change_between, with_field
from vdi.gpu.sharing.config import RESOURCE, render_config
from vdi.gpu.sharing.effect import DEFAULT_NAME, effect_on, picker_of_plugin
from vdi.gpu.sharing.findings import outdated_pods
from vdi.gpu.sharing.manifest import DEFAULT_KEY, config_map, policy_config
from vdi.gpu.sharing.refusals import plain_plugin, problems_with, target_name, unknown_nodes
from vdi.gpu.sharing.request import RefusedError, SharingRequest
from vdi.gpu.sharing.state import (
    BEFORE_ANNOTATION,
    CONFIG_LABEL,
    OUR_VOLUME,
    DaemonSet,
    GpuState,
    Node,
    read_record,
)
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES

CONFIG_PATH = ("spec", "devicePlugin", "config")
NOTE_PATH = ("metadata", "annotations", BEFORE_ANNOTATION)


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """The changes in their order, then the DaemonSets to restart: empty when all is as requested."""

    changes: tuple[Change, ...] = ()
    restarts: tuple[DaemonSet, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes and not self.restarts


def default_key(state: GpuState, asked: str | None) -> str:
    """The name of the default configuration: as asked, else the one that is in effect, else `any`."""
    policy = state.policy
    if policy is None:
        own = picker_of_plugin(plain_plugin(state)).default
    else:  # of somebody else's ConfigMap the default says nothing about ours
        own = str(policy.config.get("default") or "") if policy.config.get("name") == DEFAULT_NAME else ""
    return asked or own or DEFAULT_KEY


def plan_configure(state: GpuState, request: SharingRequest) -> SharingPlan:
    """The changes for a request. Raises RefusedError with every reason against it."""
    unknown = list(unknown_nodes(state, request))
    if unknown:
        raise RefusedError(unknown, usage=True)
    problems = list(problems_with(state, request))
    if problems:
        raise RefusedError(problems)
    maps = _config_map_change(state, request)
    rollout = _policy_change(state, request) if state.policy is not None else _daemon_set_change(state, request)
    nodes = [change for node in state.nodes if (change := _node_change(node, state, request))]
    changes = tuple(change for change in (maps, *nodes, rollout) if change is not None)
    return SharingPlan(changes, restarts_for(state, data_changes=_changes_data(maps), rolls_anyway=rollout is not None))


def _config_map_change(state: GpuState, request: SharingRequest) -> Change | None:
    name = target_name(state)
    there = state.config_maps.get(name)
    texts = {key: render_config(sharing) for key, sharing in request.configs.items()}
    old = there.data if there else {}
    texts = {key: old[key] if old.get(key, "").strip() == text else text for key, text in texts.items()}
    desired = there.raw if there else config_map(state.namespace, name, {})
    record = (read_record(there.raw) if there else None) or {"made": there is None, "keys": {}}
    if state.policy is not None:
        record.setdefault("policy", dict(state.policy.config) or None)
    for key in texts:
        record["keys"].setdefault(key, old.get(key))
    after = with_field(desired, ("data",), {**old, **texts})
    return change_between(CONFIG_MAPS, there.raw if there else None, with_field(after, NOTE_PATH, note_of(record)))


def _changes_data(change: Change | None) -> bool:
    return change is not None and (change.before or {}).get("data") != (change.after or {}).get("data")


def note_of(record: dict[str, Any]) -> str:
    """A note as the annotation's value."""
    return json.dumps(record, sort_keys=True)


def _node_change(node: Node, state: GpuState, request: SharingRequest) -> Change | None:
    record = read_record(node.raw) or {}
    after: Any = node.raw
    desired = request.nodes.get(node.name)
    if desired is not None and desired != node.label(CONFIG_LABEL):
        record.setdefault("config", node.label(CONFIG_LABEL) or None)
        after = with_field(after, ("metadata", "labels", CONFIG_LABEL), desired)
    if node.has_gpu and node.gpus is None and (count := _counted(node, state)):
        record["gpus"] = count
    return change_between(NODES, node.raw, with_field(after, NOTE_PATH, note_of(record)) if record else after)


def _counted(node: Node, state: GpuState) -> int | None:
    """The GPUs of a node that nothing shares yet: what it advertises."""
    sharing = effect_on(node, state).sharing
    return node.count(RESOURCE, "capacity") if sharing is not None and sharing.replicas == 1 else None


def _policy_change(state: GpuState, request: SharingRequest) -> Change | None:
    policy = state.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    desired = {**policy.config, **policy_config(target_name(state), request.default)}
    return change_between(CLUSTER_POLICIES, policy.raw, with_field(policy.raw, CONFIG_PATH, desired))


def _daemon_set_change(state: GpuState, request: SharingRequest) -> Change | None:
    """Give a device plugin that has no configuration ours; one that has one reads it as it is."""
    plugin = plain_plugin(state)
    if plugin is None or plugin.config_map is not None:
        return None
    folder = f"/{OUR_VOLUME}"
    main = dict(plugin.main or {})
    main["env"] = [*(main.get("env") or ()), {"name": "CONFIG_FILE", "value": f"{folder}/{request.default}"}]
    mount = {"name": OUR_VOLUME, "mountPath": folder, "readOnly": True}
    main["volumeMounts"] = [*(main.get("volumeMounts") or ()), mount]
    volume = {"name": OUR_VOLUME, "configMap": {"name": target_name(state)}}
    return with_pod_parts(plugin, main, [*(plugin.pod_spec.get("volumes") or ()), volume])


def with_pod_parts(plugin: DaemonSet, main: dict[str, Any], volumes: list[Any]) -> Change | None:
    """The device plugin with another main container and other volumes."""
    containers = [
        main if container["name"] == main["name"] else container for container in plugin.pod_spec["containers"]
    ]
    path = ("spec", "template", "spec")
    after = with_field(plugin.raw, (*path, "containers"), containers)
    return change_between(DAEMON_SETS, plugin.raw, with_field(after, (*path, "volumes"), volumes))


def restarts_for(state: GpuState, *, data_changes: bool, rolls_anyway: bool) -> tuple[DaemonSet, ...]:
    """Which DaemonSets read the ConfigMap, do so only when they start, and would not restart by themselves."""
    if rolls_anyway:
        return ()
    return tuple(
        plugin
        for plugin in (*state.plugins, *state.readers)
        if plugin.pods
        and plugin.config_map == target_name(state)
        and (data_changes or bool(outdated_pods(plugin, state)))
    )
