"""The fields of each object that a snapshot keeps: those that a check reads, and none that may hold a secret. Pure.

`collect` sanitizes every object before anything else sees it. What is not named here is dropped: parameters of a
StorageClass, annotations, values of environment variables and arguments may hold a password. Of a kind that is not in
`SANITIZERS` only metadata is kept.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import yaml

from vdi.diagnosis.snapshot import REDACTED
from vdi.doctor.objects.references import LOCAL_PATH_CONFIG
from vdi.kasm.diagnosis.installation import read_wait
from vdi.session.credentials import read_basic_auth
from vdi.settings import VARIABLES

Object = dict[str, Any]
_Keys = tuple[str, ...]

_META = (
    *("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp"),
    *("finalizers", "labels", "ownerReferences"),
)
# Annotations of ours, and those of others that checks read.
_OUR_NOTES = "vdi.kasm.io/"
_READ_NOTES = frozenset(
    {
        *("meta.helm.sh/release-name", "meta.helm.sh/release-namespace"),
        *("storageclass.kubernetes.io/is-default-class", "volume.kubernetes.io/selected-node"),
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "cluster-autoscaler.kubernetes.io/scale-down-disabled",
        *("karpenter.sh/do-not-disrupt", "kubernetes.io/ingress.class"),
        "traefik.ingress.kubernetes.io/router.entrypoints",
        "traefik.ingress.kubernetes.io/router.priority",
    }
)
_READ_ENV = frozenset(
    {
        *("SELKIES_ENCODER", "SELKIES_PORT", "CONFIG_FILE", "CONFIG_FILE_SRCDIR"),
        *("DEFAULT_CONFIG", "FALLBACK_STRATEGIES", "CONTAINERD_SOCKET"),
        # The operator's settings, and those of the gateway that a check reads.
        *VARIABLES,
        *("VDI_GATEWAY_NAMESPACE", "VDI_TURN_URLS"),
    }
)
# Scheme, host and port of a URL, between user information and path.
_ORIGIN = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#@]*).*", re.DOTALL)
# Of other settings the name is kept, which may be a misspelling.
_SETTINGS = "VDI_"
# Options of Traefik. `--providers.kubernetescrd.token` is one, too.
_READ_ARGS = re.compile(
    r"--(entrypoints\.|providers\.kubernetescrd(=|$|\.(namespaces|allowcrossnamespace)(=|$)))", re.IGNORECASE
)


def _pick(found: Any, *keys: str) -> Any:
    if not isinstance(found, Mapping):
        return REDACTED
    return {key: found[key] for key in keys if key in found}


def _meta(found: Mapping[str, Any]) -> Object:
    meta = _pick(found, *_META)
    notes = found.get("annotations") or {}
    kept = {key: value for key, value in notes.items() if key in _READ_NOTES or key.startswith(_OUR_NOTES)}
    return {**meta, "annotations": kept} if kept else meta


def without_spec(found: Object) -> Object:
    """Metadata only: the check asks whether the object exists."""
    return {"metadata": _meta(found["metadata"])}


def fields(found: Object, *, top: _Keys = (), spec: _Keys = (), status: _Keys = ()) -> Object:
    """Metadata, these fields, and these of spec and status. For fields that can hold no secret, however deep."""
    kept = {**without_spec(found), **_pick(found, *top)}
    if spec:
        kept["spec"] = _pick(found.get("spec") or {}, *spec)
    if status and found.get("status"):
        kept["status"] = _pick(found["status"], *status)
    return kept


def route(found: Object) -> Object:
    """An IngressRoute: its rules. Health checks of its services may send a password as a header."""
    spec = found["spec"]
    routes = []
    for rule in spec.get("routes") or ():
        kept = _pick(rule, "match", "priority", "middlewares")
        services = rule.get("services") or ()
        kept["services"] = [
            _pick(service, "kind", "name", "namespace", "port", "serversTransport") for service in services
        ]
        routes.append(kept)
    tls = {"tls": _pick(spec["tls"] or {}, "secretName", "certResolver")} if "tls" in spec else {}
    return {**without_spec(found), "spec": {**_pick(spec, "entryPoints"), "routes": routes, **tls}}


def volume(found: Object) -> Object:
    """A PersistentVolume: which nodes reach it, and its folder. Attributes of a CSI driver may hold a key."""
    spec = found["spec"]
    kept = _pick(spec, "nodeAffinity", "storageClassName", "accessModes", "capacity", "persistentVolumeReclaimPolicy")
    for source in ("csi", "local", "hostPath"):
        if source in spec:
            kept[source] = _pick(spec[source], "driver", "fsType", "path")
    return {**fields(found, status=("phase",)), "spec": kept}


def middleware(found: Object) -> Object:
    """A Middleware: the members of a chain, host and port of a forwardAuth. Any other field may be a password."""
    spec = found.get("spec") or {}
    kept = _pick(spec, "chain")
    if address := str((spec.get("forwardAuth") or {}).get("address") or ""):
        kept["forwardAuth"] = {"address": _ORIGIN.sub(r"\1\2", address) if _ORIGIN.match(address) else REDACTED}
    return {**without_spec(found), **({"spec": kept} if kept else {})}


def _writes(found: Object) -> list[Object]:
    """The times of its writes, which show its last change."""
    return [
        {"time": write["time"], "fieldsV1": {"f:data": {}}}
        for write in found["metadata"].get("managedFields") or ()
        if "f:data" in (write.get("fieldsV1") or {}) and "time" in write
    ]


def config_map(found: Object) -> Object:
    """A ConfigMap: local-path's script, or how GPUs are shared."""
    data = found.get("data") or {}
    if found["metadata"]["name"] == LOCAL_PATH_CONFIG:
        kept = _pick(data, "setup")
    else:
        kept = {key: _gpu_config(str(text)) for key, text in data.items()}
    return {"metadata": {**_meta(found["metadata"]), "managedFields": _writes(found)}, "data": kept}


def _gpu_config(text: str) -> str:
    """The part of a device plugin's configuration that `vdi.gpu.sharing.config` reads, or why there is none."""
    try:
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        return json.dumps(f"{REDACTED}, not YAML in line {line}: {error.problem}")
    except (yaml.YAMLError, RecursionError, ValueError):
        return json.dumps(f"{REDACTED}, not YAML")
    if not isinstance(config, dict):
        return json.dumps(REDACTED) if config else ""
    kept = _pick(config, "version", "sharing")
    if isinstance(flags := config.get("flags"), dict):
        kept["flags"] = _pick(flags, "migStrategy")
    return json.dumps(kept, default=str)


def node(found: Object) -> Object:
    """A node without addresses and images."""
    status = found.get("status", {})
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    kept = {**_pick(status, "conditions", "allocatable", "capacity"), "nodeInfo": {"kubeletVersion": version}}
    return {**fields(found, spec=("unschedulable", "taints")), "status": kept}


def template(found: Object) -> Object:
    """A VDITemplate without icon, annotations of its pods, and values of its environment that no check reads."""
    spec = {key: value for key, value in found["spec"].items() if key != "icon"}
    spec["env"] = [_env(variable) for variable in spec.get("env") or ()]
    if pods := spec.get("podTemplate"):
        spec["podTemplate"] = {**pods, "metadata": _pick(pods.get("metadata") or {}, "labels")}
    return {**fields(found, top=("status",)), "spec": spec}


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
    return {**without_spec(found), "spec": kept, "status": _pick(found.get("status", {}), *said)}


def workload(found: Object) -> Object:
    """A Deployment, StatefulSet or DaemonSet: its containers, with our settings and those of NVIDIA's plugin."""
    spec = found["spec"]
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    kept: Object = _pick(inner, "serviceAccountName", "hostNetwork")
    kept["volumes"] = [_volume(volume) for volume in inner.get("volumes") or ()]
    kept["containers"] = [_container(container) for container in inner.get("containers") or ()]
    labels = (template.get("metadata") or {}).get("labels") or {}
    outer = _pick(spec, "replicas", "selector")
    spec = {**outer, "template": {"metadata": {"labels": labels}, "spec": kept}}
    return {**without_spec(found), "spec": spec, "status": _counts(found.get("status") or {})}


def _volume(found: Mapping[str, Any]) -> Object:
    kept: Object = _pick(found, "name")
    for source in ("secret", "configMap", "hostPath"):
        if source in found:
            kept[source] = _pick(found[source], "secretName", "name", "items", "path")
    return kept


def _counts(status: Mapping[str, Any]) -> Object:
    """Numbers and conditions of a workload's status."""
    return {key: value for key, value in status.items() if isinstance(value, int) or key == "conditions"}


def job(found: Object) -> Object:
    labels = ((found["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    kept = _pick(found["spec"], "backoffLimit", "selector", "suspend")
    spec = {**kept, "template": {"metadata": {"labels": labels}}}
    return {**without_spec(found), "spec": spec, "status": _counts(found.get("status") or {})}


def _container(found: Mapping[str, Any]) -> Object:
    kept: Object = _pick(found, "name", "image", "volumeMounts")
    env = (_env(variable) for variable in found.get("env") or ())
    kept["env"] = [one for one in env if one["name"] in _READ_ENV or one["name"].startswith(_SETTINGS)]
    words = [*(found.get("command") or ()), *(found.get("args") or ())]
    kept["args"] = [word for word in words if _READ_ARGS.match(word)]
    # This word tells NVIDIA's config-manager from its device plugin.
    kept["command"] = [word for word in found.get("command") or () if word == "config-manager"]
    return kept


def _env(found: Mapping[str, Any]) -> Object:
    name = found["name"]
    return {"name": name, "value": str(found.get("value", "")) if name in _READ_ENV else REDACTED}


def policy(found: Object) -> Object:
    """A ClusterPolicy: the fields about sharing GPUs."""
    spec = found.get("spec", {})
    toolkit = spec.get("toolkit") or {}
    env = [_env(variable) for variable in toolkit.get("env") or ()]
    plugin = spec.get("devicePlugin") or {}
    kept: Object = {"devicePlugin": _pick(plugin, "enabled")}
    if plugin.get("config"):
        kept["devicePlugin"]["config"] = _pick(plugin["config"], "name", "default")
    kept["toolkit"] = {"enabled": toolkit.get("enabled", True), "env": env}
    return {**fields(found, status=("state", "conditions")), "spec": kept}


def custom_kind(found: Object) -> Object:
    """A CRD: its schemas without descriptions."""
    spec = found["spec"]
    versions = [
        {**_pick(version, "name", "served", "storage"), "schema": _shape(version.get("schema"))}
        for version in spec.get("versions") or ()
    ]
    kept = {"group": spec.get("group"), "names": spec.get("names"), "versions": versions}
    conditions = (found.get("status") or {}).get("conditions") or []
    return {**without_spec(found), "spec": kept, "status": {"conditions": conditions}}


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
        "changed": max((write["time"] for write in _writes(found)), default=""),
    }


_CLAIM = ("storageClassName", "volumeName", "accessModes", "volumeMode", "resources")
_LEASE = ("holderIdentity", "renewTime", "acquireTime", "leaseDurationSeconds", "leaseTransitions")
SANITIZERS: Mapping[str, Callable[[Object], Object]] = {
    "certificates": partial(fields, spec=("secretName", "dnsNames", "issuerRef"), status=("conditions", "notAfter")),
    "clusterpolicies": policy,
    "configmaps": config_map,
    "customresourcedefinitions": custom_kind,
    "daemonsets": workload,
    "deployments": workload,
    "endpointslices": endpoint_slice,
    "events": event,
    "ingresses": partial(fields, spec=("ingressClassName", "rules")),
    "ingressroutes": route,
    "jobs": job,
    "leases": partial(fields, spec=_LEASE),
    "middlewares": middleware,
    "networkpolicies": partial(fields, spec=("podSelector", "policyTypes", "ingress", "egress")),
    "nodes": node,
    "persistentvolumeclaims": partial(fields, spec=_CLAIM, status=("phase", "conditions", "capacity")),
    "persistentvolumes": volume,
    "pods": pod,
    "resourceslices": partial(fields, spec=("driver", "nodeName")),
    "secrets": secret,
    "services": partial(fields, spec=("type", "ports", "selector", "clusterIP"), status=("conditions",)),
    "statefulsets": workload,
    "storageclasses": partial(fields, top=("provisioner", "reclaimPolicy", "volumeBindingMode")),
    # Of our own kinds every field is known.
    "vdipools": partial(fields, top=("spec", "status")),
    "vdisessions": partial(fields, top=("spec", "status")),
    "vditemplates": template,
}


def sanitize(plural: str, found: Object) -> Object:
    """The object as a snapshot keeps it."""
    return SANITIZERS.get(plural, without_spec)(found)
