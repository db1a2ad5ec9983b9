"""Fixes of `vdi doctor --fix`: for a code, the change to the object of its finding. Pure.

A fix deletes nothing. A remedy stays with a person when it costs work or files, needs
a decision (an image, a domain), or would be reverted by the next `helm upgrade`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vdi.doctor.objects.references import observe_gpus, open_modes
from vdi.findings.model import Finding
from vdi.gpu.sharing.changes import with_field
from vdi.gpu.sharing.findings import find
from vdi.kinds import TEMPLATES
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, DEPLOYMENTS, Resource
from vdi.snapshot.model import Raw, Snapshot
from vdi.snapshot.objects import CLUSTER_POLICIES

_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_OPERATORS = 2
_BROKEN_CONFIGURATION = frozenset(
    {
        "gpu_config_invalid",
        "gpu_config_map_missing",
        "gpu_default_key_missing",
        "gpu_node_config_unknown",
    }
)


@dataclass(frozen=True, slots=True)
class Fix:
    """The fix of a code. `words`: its effect, for the catalogue and the question before it is
    made.
    """

    resource: Resource
    words: str
    # The object as it is -> as it shall be; unchanged: a person has to fix it.
    change: Callable[[Raw, Snapshot], Raw]

    def place(self, finding: Finding) -> tuple[str | None, str]:
        """Namespace and name of the finding's object."""
        _, *namespace, name = finding.object.split("/")
        return (namespace[0] if namespace else None), name


def fix_for(finding: Finding) -> Fix | None:
    """The fix of this finding; None: a person has to fix it."""
    fix = FIXES.get(finding.code)
    if fix and finding.object.startswith(f"{fix.resource.kind.lower()}/"):
        return fix
    return None


def _restart(there: Raw, snapshot: Snapshot) -> Raw:
    if there["spec"].get("updateStrategy", {}).get("type") == "OnDelete":
        return there  # it would restart nothing
    return with_field(
        there, ("spec", "template", "metadata", "annotations", _RESTARTED_AT), snapshot.taken_at
    )


def _restart_plugin(there: Raw, snapshot: Snapshot) -> Raw:
    # With a configuration that it cannot read, the plugin would come back without any GPU.
    broken = any(one.code in _BROKEN_CONFIGURATION for one in find(observe_gpus(snapshot)))
    return there if broken else _restart(there, snapshot)


def _scale_up(there: Raw, _snapshot: Snapshot) -> Raw:
    if there["spec"].get("replicas", 1):
        return there
    return with_field(there, ("spec", "replicas"), _OPERATORS)


def _name_the_only_key(there: Raw, snapshot: Snapshot) -> Raw:
    config_map = observe_gpus(snapshot).config_map
    keys = list(config_map.data) if config_map else []
    if len(keys) != 1:
        return there  # a person decides which of several is for all nodes
    return with_field(there, ("spec", "devicePlugin", "config", "default"), keys[0])


def _open_volumes(there: Raw, _snapshot: Snapshot) -> Raw:
    return with_field(
        there, ("data", "setup"), open_modes(str((there.get("data") or {}).get("setup", "")))
    )


def _use_runtime_class(there: Raw, _snapshot: Snapshot) -> Raw:
    if _is_of_helm(there):
        return there
    return with_field(there, ("spec", "placement", "runtimeClassName"), "nvidia")


def _use_encoder(there: Raw, _snapshot: Snapshot) -> Raw:
    env = there["spec"].get("env") or ()
    corrected = [
        {**variable, "value": "h264enc"} if variable["name"] == "SELKIES_ENCODER" else variable
        for variable in env
    ]
    if _is_of_helm(there):
        return there
    return with_field(there, ("spec", "env"), corrected)


def _is_of_helm(there: Raw) -> bool:
    return "meta.helm.sh/release-name" in (there["metadata"].get("annotations") or {})


_DEFAULT_KEY = Fix(
    CLUSTER_POLICIES,
    "sets the only key of the ConfigMap as the default; the GPU Operator does the rest",
    _name_the_only_key,
)
# By code.
FIXES: Mapping[str, Fix] = {
    "operator_down": Fix(
        DEPLOYMENTS, "scales an operator that was scaled to 0 up again", _scale_up
    ),
    "operator_stuck": Fix(
        DEPLOYMENTS, "restarts the operator; desktops are not affected", _restart
    ),
    "gpu_default_key_missing": _DEFAULT_KEY,
    "gpu_default_key_unset": _DEFAULT_KEY,
    "gpu_config_not_read": Fix(
        DAEMON_SETS, "restarts the device plugin; desktops keep their GPUs", _restart_plugin
    ),
    "gpu_runtime_class_unset": Fix(
        TEMPLATES,
        "sets the runtime class in a template that does not belong to a Helm release; for desktops"
        " that start from now on",
        _use_runtime_class,
    ),
    "local_path_mode_wrong": Fix(
        CONFIG_MAPS,
        "gives new volumes the mode 0777, as K3s does; existing folders keep their mode",
        _open_volumes,
    ),
    "encoder_obsolete": Fix(
        TEMPLATES,
        "sets h264enc in a template that does not belong to a Helm release; for desktops that start"
        " from now on",
        _use_encoder,
    ),
}
