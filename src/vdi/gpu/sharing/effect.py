"""Which named configuration each node gets, by the rules of the plugin's config-manager. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from vdi.gpu.sharing.config import NOT_SHARED, BadConfigError, Sharing, read_config
from vdi.gpu.sharing.state import CONFIG_LABEL, DaemonSet, GpuState, Node, env_of, names

DEFAULT_NAME = "time-slicing-config"
"""What the ConfigMap is called where nothing has chosen another name."""


@dataclass(frozen=True, slots=True)
class ConfigPicker:
    """How the device plugin picks a configuration for a node that has no label."""

    default: str = ""
    by_label: bool = True
    fallbacks: tuple[str, ...] = ("empty",)

    def pick(self, label: str, keys: Mapping[str, str]) -> str | None:
        """The key for a node with this label; empty: no configuration, None: the plugin's pod fails to start."""
        if label and self.by_label:
            return label if label in keys else None
        if self.default:
            return self.default if self.default in keys else None
        for fallback in self.fallbacks:
            if fallback == "named" and "default" in keys:
                return "default"
            if fallback == "single" and len(keys) == 1:
                return next(iter(keys))
            if fallback == "empty":
                return ""
        return None


def picker_of(state: GpuState) -> ConfigPicker:
    """How it is done on this cluster. The GPU Operator's fallback is no configuration at all."""
    if state.policy is not None:
        return ConfigPicker(default=str(state.policy.config.get("default") or ""))
    return picker_of_plugin(next((plugin for plugin in state.plugins if plugin.config_map), None))


def picker_of_plugin(plugin: DaemonSet | None) -> ConfigPicker:
    """How a DaemonSet of the plugin's Helm chart, or of anybody's manifest, does it."""
    if plugin is None:
        return ConfigPicker()
    if plugin.manager is None:
        return ConfigPicker(default=PurePosixPath(env_of(plugin.main, "CONFIG_FILE")).name, by_label=False)
    fallbacks = tuple(filter(None, env_of(plugin.manager, "FALLBACK_STRATEGIES").split(",")))
    return ConfigPicker(default=env_of(plugin.manager, "DEFAULT_CONFIG"), fallbacks=fallbacks)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a node gets: the name of its configuration and what that does, or the problem with it."""

    config: str = ""
    sharing: Sharing | None = NOT_SHARED
    """None when it is not known, because of the problem."""
    problem: str = ""
    allowed: str = ""


def effect_on(node: Node, state: GpuState) -> Effect:
    """What the plugin is configured to do on this node."""
    name, found = state.config_name, state.config_map
    if not name:
        return Effect()
    if found is None:
        return Effect(sharing=None, problem=f"ConfigMap {state.namespace}/{name} is missing")
    picker, label = picker_of(state), node.label(CONFIG_LABEL)
    key = picker.pick(label, found.data)
    if key is None:
        desired = f"label {CONFIG_LABEL}={label}" if label and picker.by_label else f"the default {picker.default!r}"
        problem = f"{desired} is not a key of ConfigMap {state.namespace}/{name}"
        return Effect(config=label, sharing=None, problem=problem, allowed=names(sorted(found.data)))
    if not key:
        return Effect()
    try:
        return Effect(config=key, sharing=read_config(found.data[key]))
    except BadConfigError as error:
        problem = f"key {key} of ConfigMap {state.namespace}/{name}: {error}"
        return Effect(config=key, sharing=None, problem=problem)
