"""What is kept of each object: what a check reads, and nothing that may hold a secret. Pure.

Values of environment variables and arguments of programs are kept only where a check reads them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vdi.diagnosis.snapshot import REDACTED
from vdi.kasm.diagnosis.installation import read_wait
from vdi.session.credentials import read_basic_auth

Object = dict[str, Any]

_META = (
    "name",
    "namespace",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "labels",
    "ownerReferences",
)
_FOREIGN_NOTES = ("last-applied-configuration",)
_READ_ENV = frozenset(
    {
        "SELKIES_ENCODER",
        "SELKIES_PORT",
        "CONFIG_FILE",
        "CONFIG_FILE_SRCDIR",
        "DEFAULT_CONFIG",
        "FALLBACK_STRATEGIES",
        "CONTAINERD_SOCKET",
    }
)
_SETTINGS = "VDI_"
# Settings of ours that hold a password.
_HIDDEN = ("TOKEN", "PASSWORD", "CLIENT_SECRET", "DATABASE_URL", "REDIS_URL")

_READ_ARGS = ("--entrypoints.", "--providers.kubernetescrd")


def _meta(found: Mapping[str, Any]) -> Object:
    meta = {key: found[key] for key in _META if key in found}
    notes = found.get("annotations") or {}
    kept = {key: value for key, value in notes.items() if not key.endswith(_FOREIGN_NOTES)}
    return {**meta, "annotations": kept} if kept else meta


def whole(found: Object) -> Object:
    """All but the bookkeeping."""
    return {**found, "metadata": _meta(found["metadata"])}


def without_spec(found: Object) -> Object:
    """Only that it is there."""
    return {"metadata": _meta(found["metadata"])}


def middleware(found: Object) -> Object:
    """That it is there, and the others that a chain names; what else is in one may be a password."""
    chain = (found.get("spec") or {}).get("chain")
    return {**without_spec(found), **({"spec": {"chain": chain}} if chain else {})}


def dated(found: Object) -> Object:
    """With the times of its writes: they show a ConfigMap's last change."""
    meta = _meta(found["metadata"])
    writes = found["metadata"].get("managedFields") or ()
    times = [{"time": write.get("time", ""), "fieldsV1": {"f:data": {}}} for write in writes if _writes_data(write)]
    return {**found, "metadata": {**meta, "managedFields": times}}


def _writes_data(entry: Mapping[str, Any]) -> bool:
    return "f:data" in (entry.get("fieldsV1") or {}) and "time" in entry


def node(found: Object) -> Object:
    """A node without addresses and images."""
    status = found.get("status", {})
    kept = {key: status[key] for key in ("conditions", "allocatable", "capacity") if key in status}
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    spec = {key: found["spec"][key] for key in ("unschedulable", "taints") if key in found.get("spec", {})}
    return {**whole(found), "spec": spec, "status": {**kept, "nodeInfo": {"kubeletVersion": version}}}


def template(found: Object) -> Object:
    """A VDITemplate without the values of its environment that no check reads."""
    spec = dict(found["spec"])
    spec.pop("icon", None)
    spec["env"] = [_env(variable) for variable in spec.get("env") or ()]
    return {**whole(found), "spec": spec}


def pod(found: Object) -> Object:
    """A pod: where it is, what it takes, how it is."""
    spec = found["spec"]
    kept = {key: spec[key] for key in ("nodeName", "nodeSelector", "tolerations", "runtimeClassName") if key in spec}
    kept["volumes"] = [
        volume for volume in spec.get("volumes") or () if "persistentVolumeClaim" in volume or "hostPath" in volume
    ]
    of_container = ("name", "image", "resources", "restartPolicy", "ports")
    for key in ("containers", "initContainers"):
        kept[key] = [{name: one[name] for name in of_container if name in one} for one in spec.get(key) or ()]
    for init_container, whole_one in zip(kept["initContainers"], spec.get("initContainers") or (), strict=True):
        if wait := read_wait(whole_one):
            init_container["waitsFor"] = wait
    status = found.get("status", {})
    said = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "startTime")
    return {**whole(found), "spec": kept, "status": {key: status[key] for key in said if key in status}}


def workload(found: Object) -> Object:
    """A Deployment or DaemonSet: what its containers are, with settings of ours and those of NVIDIA's plugin."""
    spec = found["spec"]
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    kept = {key: inner[key] for key in ("serviceAccountName", "volumes", "hostNetwork") if key in inner}
    kept["containers"] = [_container(container) for container in inner.get("containers") or ()]
    labels = (template.get("metadata") or {}).get("labels") or {}
    outer = {key: spec[key] for key in ("replicas", "selector") if key in spec}
    return {**whole(found), "spec": {**outer, "template": {"metadata": {"labels": labels}, "spec": kept}}}


def job(found: Object) -> Object:
    """A Job: how it went."""
    labels = ((found["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    kept = {key: found["spec"][key] for key in ("backoffLimit", "selector", "suspend") if key in found["spec"]}
    return {**whole(found), "spec": {**kept, "template": {"metadata": {"labels": labels}}}}


def _container(found: Mapping[str, Any]) -> Object:
    kept = {key: found[key] for key in ("name", "image", "volumeMounts") if key in found}
    kept["env"] = [_env(variable) for variable in found.get("env") or () if _is_read(variable["name"])]
    words = [*(found.get("command") or ()), *(found.get("args") or ())]
    kept["args"] = [word for word in words if word.lower().startswith(_READ_ARGS)]
    # What tells NVIDIA's config-manager from its device plugin.
    kept["command"] = [word for word in found.get("command") or () if word == "config-manager"]
    return kept


def _is_read(name: str) -> bool:
    return name in _READ_ENV or (name.startswith(_SETTINGS) and not any(word in name for word in _HIDDEN))


def _env(found: Mapping[str, Any]) -> Object:
    name = found["name"]
    return {"name": name, "value": str(found.get("value", "")) if _is_read(name) else REDACTED}


def policy(found: Object) -> Object:
    """A ClusterPolicy: what concerns the sharing of GPUs."""
    spec = found.get("spec", {})
    plugin, toolkit = spec.get("devicePlugin") or {}, spec.get("toolkit") or {}
    kept: Object = {"devicePlugin": {key: plugin[key] for key in ("enabled", "config") if key in plugin}}
    kept["toolkit"] = {
        "enabled": toolkit.get("enabled", True),
        "env": [_env(variable) for variable in toolkit.get("env") or ()],
    }
    return {**whole(found), "spec": kept}


def custom_kind(found: Object) -> Object:
    """A CRD: its schema without descriptions."""
    spec = found["spec"]
    versions = [
        {
            **{key: version[key] for key in ("name", "served", "storage") if key in version},
            "schema": _shape(version.get("schema")),
        }
        for version in spec.get("versions") or ()
    ]
    kept = {"group": spec.get("group"), "names": spec.get("names"), "versions": versions}
    return {**whole(found), "spec": kept, "status": {"conditions": (found.get("status") or {}).get("conditions") or []}}


def _shape(schema: Any) -> Any:
    """The names of the fields, and what is in them."""
    found = (schema or {}).get("openAPIV3Schema", schema) or {}
    shape: Object = {}
    if "properties" in found:
        shape["properties"] = {name: _shape(one) for name, one in found["properties"].items()}
    if isinstance(found.get("items"), dict):
        shape["items"] = _shape(found["items"])
    return shape


def endpoint_slice(found: Object) -> Object:
    """An EndpointSlice: how many answer, without addresses."""
    ready = [{"conditions": endpoint.get("conditions") or {}} for endpoint in found.get("endpoints") or ()]
    return {"metadata": _meta(found["metadata"]), "endpoints": ready, "ports": found.get("ports") or []}


def event(found: Object) -> Object:
    """An Event in the names of events.k8s.io."""
    kept = ("regarding", "type", "reason", "note", "eventTime", "deprecatedLastTimestamp")
    return {"metadata": _meta(found["metadata"]), **{key: found[key] for key in kept if found.get(key) is not None}}


def secret(found: Object) -> Object:
    """A Secret of `basicAuthSecret`: why it cannot be used. Nothing of what it holds."""
    problem = ""
    try:
        read_basic_auth(found.get("data") or {})
    except ValueError as error:
        problem = str(error)
    meta = {key: found["metadata"][key] for key in ("name", "namespace")}
    return {"metadata": meta, "type": found.get("type", ""), "problem": problem}


SANITIZERS: Mapping[str, Callable[[Object], Object]] = {
    "nodes": node,
    "pods": pod,
    "vditemplates": template,
    "deployments": workload,
    "daemonsets": workload,
    "statefulsets": workload,
    "jobs": job,
    "clusterpolicies": policy,
    "customresourcedefinitions": custom_kind,
    "configmaps": dated,
    "endpointslices": endpoint_slice,
    "events": event,
    "middlewares": middleware,
    "runtimeclasses": without_spec,
    "secrets": secret,
    "serverstransports": without_spec,
}


def sanitize(plural: str, found: Object) -> Object:
    """The object as it is kept."""
    return SANITIZERS.get(plural, whole)(found)
