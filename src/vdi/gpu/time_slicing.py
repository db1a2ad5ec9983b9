"""From what is observed and what is wished to the changes that bring it about, or to the reasons against it. Pure.

    ConfigMap -> labels and notes of nodes -> ClusterPolicy (or DaemonSet) -> restart of what has not read it

The order matters: a label or a policy that names a configuration which is not there yet keeps the device plugin down.
"""

import json
from dataclasses import dataclass
from typing import Any

from vdi.gpu.effect import DEFAULT_NAME, effect_on, picker_of_plugin
from vdi.gpu.findings import outdated_pods
from vdi.gpu.manifest import DEFAULT_KEY, config_map, policy_config
from vdi.gpu.observed import (
    BEFORE,
    CONFIG_LABEL,
    OUR_VOLUME,
    DaemonSet,
    Node,
    Observed,
    parsed_record,
)
from vdi.gpu.refusals import plain_plugin, problems_with, target_name, unknown_nodes
from vdi.gpu.sharing import RESOURCE, render_config
from vdi.gpu.steps import CLUSTER_POLICIES, Step, changed, step_between
from vdi.gpu.wish import RefusedError, Wish
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES

CONFIG_PATH = ("spec", "devicePlugin", "config")
NOTE_PATH = ("metadata", "annotations", BEFORE)


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in their order, then the DaemonSets to restart: empty when all is as wished."""

    steps: tuple[Step, ...] = ()
    restarts: tuple[DaemonSet, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.steps and not self.restarts


def default_key(observed: Observed, asked: str | None) -> str:
    """The name of the default configuration: as asked, else the one that is in effect, else `any`."""
    policy = observed.policy
    if policy is None:
        own = picker_of_plugin(plain_plugin(observed)).default
    else:  # of somebody else's ConfigMap the default says nothing about ours
        own = str(policy.config.get("default") or "") if policy.config.get("name") == DEFAULT_NAME else ""
    return asked or own or DEFAULT_KEY


def plan_configure(observed: Observed, wish: Wish) -> Plan:
    """What brings the wish about. Raises RefusedError with every reason against it."""
    unknown = list(unknown_nodes(observed, wish))
    if unknown:
        raise RefusedError(unknown, usage=True)
    problems = list(problems_with(observed, wish))
    if problems:
        raise RefusedError(problems)
    maps = _config_map_step(observed, wish)
    rollout = _policy_step(observed, wish) if observed.policy is not None else _daemon_set_step(observed, wish)
    nodes = [step for node in observed.nodes if (step := _node_step(node, observed, wish))]
    steps = tuple(step for step in (maps, *nodes, rollout) if step is not None)
    return Plan(steps, restarts_for(observed, data_changes=_changes_data(maps), rolls_anyway=rollout is not None))


def _config_map_step(observed: Observed, wish: Wish) -> Step | None:
    name = target_name(observed)
    there = observed.config_maps.get(name)
    texts = {key: render_config(sharing) for key, sharing in wish.configs.items()}
    old = there.data if there else {}
    texts = {key: old[key] if old.get(key, "").strip() == text else text for key, text in texts.items()}
    wanted = there.raw if there else config_map(observed.namespace, name, {})
    record = (parsed_record(there.raw) if there else None) or {"made": there is None, "keys": {}}
    if observed.policy is not None:
        record.setdefault("policy", dict(observed.policy.config) or None)
    for key in texts:
        record["keys"].setdefault(key, old.get(key))
    after = changed(wanted, ("data",), {**old, **texts})
    return step_between(CONFIG_MAPS, there.raw if there else None, changed(after, NOTE_PATH, note_of(record)))


def _changes_data(step: Step | None) -> bool:
    return step is not None and (step.before or {}).get("data") != (step.after or {}).get("data")


def note_of(record: dict[str, Any]) -> str:
    """A note as the annotation's value."""
    return json.dumps(record, sort_keys=True)


def _node_step(node: Node, observed: Observed, wish: Wish) -> Step | None:
    record = parsed_record(node.raw) or {}
    after: Any = node.raw
    wanted = wish.nodes.get(node.name)
    if wanted is not None and wanted != node.label(CONFIG_LABEL):
        record.setdefault("config", node.label(CONFIG_LABEL) or None)
        after = changed(after, ("metadata", "labels", CONFIG_LABEL), wanted)
    if node.has_gpu and node.gpus is None and (count := _counted(node, observed)):
        record["gpus"] = count
    return step_between(NODES, node.raw, changed(after, NOTE_PATH, note_of(record)) if record else after)


def _counted(node: Node, observed: Observed) -> int | None:
    """The GPUs of a node that nothing shares yet: what it advertises."""
    sharing = effect_on(node, observed).sharing
    return node.count(RESOURCE, "capacity") if sharing is not None and sharing.replicas == 1 else None


def _policy_step(observed: Observed, wish: Wish) -> Step | None:
    policy = observed.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    wanted = {**policy.config, **policy_config(target_name(observed), wish.default)}
    return step_between(CLUSTER_POLICIES, policy.raw, changed(policy.raw, CONFIG_PATH, wanted))


def _daemon_set_step(observed: Observed, wish: Wish) -> Step | None:
    """Give a device plugin that has no configuration ours; one that has one reads it as it is."""
    plugin = plain_plugin(observed)
    if plugin is None or plugin.config_map is not None:
        return None
    folder = f"/{OUR_VOLUME}"
    main = dict(plugin.main or {})
    main["env"] = [*(main.get("env") or ()), {"name": "CONFIG_FILE", "value": f"{folder}/{wish.default}"}]
    mount = {"name": OUR_VOLUME, "mountPath": folder, "readOnly": True}
    main["volumeMounts"] = [*(main.get("volumeMounts") or ()), mount]
    volume = {"name": OUR_VOLUME, "configMap": {"name": target_name(observed)}}
    return with_pod_parts(plugin, main, [*(plugin.pod_spec.get("volumes") or ()), volume])


def with_pod_parts(plugin: DaemonSet, main: dict[str, Any], volumes: list[Any]) -> Step | None:
    """The device plugin with another main container and other volumes."""
    containers = [main if each["name"] == main["name"] else each for each in plugin.pod_spec["containers"]]
    path = ("spec", "template", "spec")
    after = changed(plugin.raw, (*path, "containers"), containers)
    return step_between(DAEMON_SETS, plugin.raw, changed(after, (*path, "volumes"), volumes))


def restarts_for(observed: Observed, *, data_changes: bool, rolls_anyway: bool) -> tuple[DaemonSet, ...]:
    """Which DaemonSets read the ConfigMap, do so only when they start, and would not start anew by themselves."""
    if rolls_anyway:
        return ()
    return tuple(
        each
        for each in (*observed.plugins, *observed.readers)
        if each.pods
        and each.config_map == target_name(observed)
        and (data_changes or bool(outdated_pods(each, observed)))
    )
