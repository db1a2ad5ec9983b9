"""The fields of each object that a snapshot keeps: those that a check reads, and none that may hold a secret. Pure.

`collect` sanitizes every object before anything else sees it. Values of environment variables and arguments of programs
are kept only where a check reads them. A kind that is not in `SANITIZERS` is kept whole.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vdi.diagnosis.snapshot import REDACTED
from vdi.kasm.diagnosis.installation import read_wait
from vdi.session.credentials import read_basic_auth

Object = dict[str, Any]

_META = (
    *("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp"),
    *("finalizers", "labels", "ownerReferences"),
)
_FOREIGN_NOTES = ("last-applied-configuration",)
_READ_ENV = frozenset(
    {
        *("SELKIES_ENCODER", "SELKIES_PORT", "CONFIG_FILE", "CONFIG_FILE_SRCDIR"),
        *("DEFAULT_CONFIG", "FALLBACK_STRATEGIES", "CONTAINERD_SOCKET"),
    }
)
# Scheme, host and port of a URL, between user information and path.
_ORIGIN = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#@]*).*", re.DOTALL)
_SETTINGS = "VDI_"
# Settings of ours that hold a password.
_HIDDEN = ("TOKEN", "PASSWORD", "CLIENT_SECRET", "DATABASE_URL", "REDIS_URL")
_READ_ARGS = ("--entrypoints.", "--providers.kubernetescrd")


def _pick(found: Mapping[str, Any], *keys: str) -> Object:
    return {key: found[key] for key in keys if key in found}


def _meta(found: Mapping[str, Any]) -> Object:
    meta = _pick(found, *_META)
    notes = found.get("annotations") or {}
    kept = {key: value for key, value in notes.items() if not key.endswith(_FOREIGN_NOTES)}
    return {**meta, "annotations": kept} if kept else meta


def whole(found: Object) -> Object:
    """Everything but managed fields and other metadata that no check reads."""
    return {**found, "metadata": _meta(found["metadata"])}


def without_spec(found: Object) -> Object:
    """Metadata only: the check asks whether the object exists."""
    return {"metadata": _meta(found["metadata"])}


def middleware(found: Object) -> Object:
    """A Middleware: the members of a chain, host and port of a forwardAuth. Any other field may be a password."""
    spec = found.get("spec") or {}
    kept = _pick(spec, "chain")
    if address := str((spec.get("forwardAuth") or {}).get("address") or ""):
        kept["forwardAuth"] = {"address": _ORIGIN.sub(r"\1\2", address) if _ORIGIN.match(address) else REDACTED}
    return {**without_spec(found), **({"spec": kept} if kept else {})}


def dated(found: Object) -> Object:
    """A ConfigMap with the times of its writes, which show its last change."""
    writes = [
        {"time": write["time"], "fieldsV1": {"f:data": {}}}
        for write in found["metadata"].get("managedFields") or ()
        if "f:data" in (write.get("fieldsV1") or {}) and "time" in write
    ]
    return {**found, "metadata": {**_meta(found["metadata"]), "managedFields": writes}}


def node(found: Object) -> Object:
    """A node without addresses and images."""
    status = found.get("status", {})
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    kept = {**_pick(status, "conditions", "allocatable", "capacity"), "nodeInfo": {"kubeletVersion": version}}
    return {**whole(found), "spec": _pick(found.get("spec", {}), "unschedulable", "taints"), "status": kept}


def template(found: Object) -> Object:
    """A VDITemplate without its icon, and without the values of its environment that no check reads."""
    spec = {key: value for key, value in found["spec"].items() if key != "icon"}
    return {**whole(found), "spec": {**spec, "env": [_env(variable) for variable in spec.get("env") or ()]}}


def pod(found: Object) -> Object:
    """A pod: its place, its resources, its state."""
    spec = found["spec"]
    kept = _pick(spec, "nodeName", "nodeSelector", "tolerations", "runtimeClassName")
    kept["volumes"] = [
        volume for volume in spec.get("volumes") or () if "persistentVolumeClaim" in volume or "hostPath" in volume
    ]
    env = (one for container in spec.get("containers") or () for one in container.get("env") or ())
    references = ((variable.get("valueFrom") or {}).get("secretKeyRef") for variable in env)
    kept["secrets"] = sorted({reference["name"] for reference in references if reference})
    for key in ("containers", "initContainers"):
        kept[key] = [_pick(one, "name", "image", "resources", "restartPolicy", "ports") for one in spec.get(key) or ()]
    for init_container, container in zip(kept["initContainers"], spec.get("initContainers") or (), strict=True):
        if wait := read_wait(container):
            init_container["waitsFor"] = wait
    said = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "startTime")
    return {**whole(found), "spec": kept, "status": _pick(found.get("status", {}), *said)}


def workload(found: Object) -> Object:
    """A Deployment, StatefulSet or DaemonSet: its containers, with our settings and those of NVIDIA's plugin."""
    spec = found["spec"]
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    kept = _pick(inner, "serviceAccountName", "volumes", "hostNetwork")
    kept["containers"] = [_container(container) for container in inner.get("containers") or ()]
    labels = (template.get("metadata") or {}).get("labels") or {}
    outer = _pick(spec, "replicas", "selector")
    return {**whole(found), "spec": {**outer, "template": {"metadata": {"labels": labels}, "spec": kept}}}


def job(found: Object) -> Object:
    labels = ((found["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    kept = _pick(found["spec"], "backoffLimit", "selector", "suspend")
    return {**whole(found), "spec": {**kept, "template": {"metadata": {"labels": labels}}}}


def _container(found: Mapping[str, Any]) -> Object:
    kept = _pick(found, "name", "image", "volumeMounts")
    kept["env"] = [_env(variable) for variable in found.get("env") or () if _is_read(variable["name"])]
    words = [*(found.get("command") or ()), *(found.get("args") or ())]
    kept["args"] = [word for word in words if word.lower().startswith(_READ_ARGS)]
    # This word tells NVIDIA's config-manager from its device plugin.
    kept["command"] = [word for word in found.get("command") or () if word == "config-manager"]
    return kept


def _is_read(name: str) -> bool:
    return name in _READ_ENV or (name.startswith(_SETTINGS) and not any(word in name for word in _HIDDEN))


def _env(found: Mapping[str, Any]) -> Object:
    name = found["name"]
    return {"name": name, "value": str(found.get("value", "")) if _is_read(name) else REDACTED}


def policy(found: Object) -> Object:
    """A ClusterPolicy: the fields about sharing GPUs."""
    spec = found.get("spec", {})
    toolkit = spec.get("toolkit") or {}
    env = [_env(variable) for variable in toolkit.get("env") or ()]
    kept: Object = {"devicePlugin": _pick(spec.get("devicePlugin") or {}, "enabled", "config")}
    return {**whole(found), "spec": {**kept, "toolkit": {"enabled": toolkit.get("enabled", True), "env": env}}}


def custom_kind(found: Object) -> Object:
    """A CRD: its schemas without descriptions."""
    spec = found["spec"]
    versions = [
        {**_pick(version, "name", "served", "storage"), "schema": _shape(version.get("schema"))}
        for version in spec.get("versions") or ()
    ]
    kept = {"group": spec.get("group"), "names": spec.get("names"), "versions": versions}
    return {**whole(found), "spec": kept, "status": {"conditions": (found.get("status") or {}).get("conditions") or []}}


def _shape(schema: Any) -> Any:
    """The names of the fields, level by level."""
    found = (schema or {}).get("openAPIV3Schema", schema) or {}
    shape: Object = {}
    if "properties" in found:
        shape["properties"] = {name: _shape(one) for name, one in found["properties"].items()}
    if isinstance(found.get("items"), dict):
        shape["items"] = _shape(found["items"])
    return shape


def endpoint_slice(found: Object) -> Object:
    """An EndpointSlice: the conditions of its endpoints, without addresses."""
    ready = [{"conditions": endpoint.get("conditions") or {}} for endpoint in found.get("endpoints") or ()]
    return {**without_spec(found), "endpoints": ready, "ports": found.get("ports") or []}


def event(found: Object) -> Object:
    """An Event in the names of events.k8s.io."""
    kept = ("regarding", "type", "reason", "note", "eventTime", "deprecatedLastTimestamp", "series")
    return {**without_spec(found), **{key: found[key] for key in kept if found.get(key) is not None}}


def secret(found: Object) -> Object:
    """A Secret of `basicAuthSecret`: why it cannot be used, and its last change. None of its values."""
    problem = ""
    try:
        read_basic_auth(found.get("data") or {})
    except ValueError as error:
        problem = str(error)
    return {
        "metadata": _pick(found["metadata"], "name", "namespace"),
        "type": found.get("type", ""),
        "problem": problem,
        "changed": max((write["time"] for write in dated(found)["metadata"]["managedFields"]), default=""),
    }


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
    """The object as a snapshot keeps it."""
    return SANITIZERS.get(plural, whole)(found)
