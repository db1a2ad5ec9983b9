"""The Pod: the desktop itself. It passes the Pod Security Standard `restricted`."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from vdi.api.template import Protocol, Scheme, TemplateVolume
from vdi.session.capacity import EPHEMERAL_STORAGE
from vdi.session.children.restricted import restricted_container, restricted_pod
from vdi.session.children.secret import AGENT_TOKEN_DIGEST_KEY, PASSWORD_DIGEST_KEY, PASSWORD_KEY, USERNAME
from vdi.session.children.service import PORT_NAME
from vdi.session.effective import Desktop
from vdi.session.identity import TEMPLATE_LABEL, Identity, PoolIdentity
from vdi.session.naming import derive_base, pod_name, pool_secret_name, secret_name
from vdi.session.observed import HOLD, PROTOCOL, SCHEME, TEMPLATE_REVISION
from vdi.session.volumes import SCRIPT_FOLDER, SCRIPT_VOLUME

CONTAINER = "desktop"
FOLDER_MAKER = "home-folders"
AGENT_PORT_NAME = "agent"
MASTER_TOKEN_DIGEST = "VDI_MASTER_TOKEN_SHA256"  # noqa: S105 -- the variable's name
MASTER_TOKEN = "SELKIES_MASTER_TOKEN"  # noqa: S105 -- the variable's name
"""In pods of operators before digests. Whoever was at such a desktop could read it."""
_SCRIPT_FILE, _SCRIPT_MODE = "startup.sh", 0o555
_SECRET_MODE = 0o440
"""The pod's group (fsGroup) reads; the user does not own the files, so ssh takes a private key with this mode."""
_GRACE_SECONDS = 3
"""A desktop has nothing to save on SIGTERM that it would not have saved before; a session must be gone within 10 s."""


def build_pod(
    *, identity: Identity, desktop: Desktop, run: Mapping[str, str] | None = None, agent_port: int = 8082
) -> dict[str, Any]:
    """The Pod of a session. `run`: what is to be known of its run, as annotations."""
    notes = {TEMPLATE_REVISION: desktop.template_revision, **(run or {})}
    metadata = _with_template(identity.metadata(pod_name(identity.name), notes), desktop)
    metadata["labels"] |= {TEMPLATE_LABEL: derive_base(identity.template), HOLD: "true"}
    return _pod(metadata, build_spec(desktop, secret_name(identity.name), agent_port))


def build_pool_pod(
    *, identity: PoolIdentity, name: str, desktop: Desktop, annotations: Mapping[str, str], agent_port: int = 8082
) -> dict[str, Any]:
    """The Pod of a desktop that waits for somebody: like that of a session, but with a Secret of its own."""
    notes = {TEMPLATE_REVISION: desktop.template_revision, **annotations}
    metadata = _with_template(identity.metadata(name, notes), desktop)
    metadata["labels"] |= {TEMPLATE_LABEL: derive_base(identity.template)}
    return _pod(metadata, build_spec(desktop, pool_secret_name(name), agent_port))


def _with_template(metadata: dict[str, Any], desktop: Desktop) -> dict[str, Any]:
    """`metadata` with what the template adds to it; of two labels or annotations with one key the operator's counts."""
    theirs = desktop.pod_template.metadata
    labels, annotations = {**theirs.labels, **metadata["labels"]}, {**theirs.annotations, **metadata["annotations"]}
    if desktop.scheme is not Scheme.HTTP:
        annotations[SCHEME] = desktop.scheme.value
    if not desktop.selkies:
        annotations[PROTOCOL] = Protocol.WEB.value
    return {**metadata, "labels": labels, "annotations": annotations}


def _pod(metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def build_spec(desktop: Desktop, secret: str, agent_port: int) -> dict[str, Any]:
    """The `spec` of a desktop's pod, which takes its password from that Secret."""
    spec: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        **restricted_pod(desktop.run_as_user, owns_volumes=True),
        "containers": [_container(desktop, secret, agent_port)],
        "volumes": _volumes(desktop),
    }
    if folders := _folders_in_home(desktop):
        spec["initContainers"] = [_folder_maker(desktop, folders)]
    placement = desktop.placement
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [msgspec.to_builtins(toleration) for toleration in placement.tolerations]
    if placement.runtime_class_name:
        spec["runtimeClassName"] = placement.runtime_class_name
    if desktop.pod_template.spec.priority_class_name:
        spec["priorityClassName"] = desktop.pod_template.spec.priority_class_name
    if desktop.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in desktop.image_pull_secrets]
    return spec


def _container(desktop: Desktop, secret: str, agent_port: int) -> dict[str, Any]:
    probe = _probe(desktop)
    return {
        "name": CONTAINER,
        "image": desktop.image,
        "imagePullPolicy": "IfNotPresent",
        # Its last words outlive the pod: they are quoted where a desktop is given up.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in ((PORT_NAME, desktop.port), (AGENT_PORT_NAME, agent_port))
        ],
        "env": _env(desktop, secret, agent_port),
        "resources": _resources(desktop),
        "securityContext": restricted_container(),
        "volumeMounts": _mounts(desktop),
        # Once a second, because a person is waiting; forgiving, because a busy desktop must not lose its route.
        "readinessProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 5},
        "livenessProbe": {
            **probe,
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def _probe(desktop: Desktop) -> dict[str, Any]:
    if not desktop.probe_path:
        return {"tcpSocket": {"port": PORT_NAME}}
    scheme = {} if desktop.scheme is Scheme.HTTP else {"scheme": desktop.scheme.value}
    return {"httpGet": {"path": desktop.probe_path, "port": PORT_NAME, **scheme}}


def _resources(desktop: Desktop) -> dict[str, Any]:
    limits = {"cpu": desktop.cpu, "memory": desktop.memory}
    requests = {"cpu": desktop.request_cpu, "memory": desktop.request_memory}
    if desktop.gpu:
        limits[desktop.gpu_resource] = str(desktop.gpu)
    if desktop.ephemeral_storage is not None:
        limits[EPHEMERAL_STORAGE] = requests[EPHEMERAL_STORAGE] = desktop.ephemeral_storage
    return {"limits": limits, "requests": requests}


def _env(desktop: Desktop, secret: str, agent_port: int) -> list[dict[str, Any]]:
    """The template's variables, then ours: of two with one name Kubernetes takes the last."""
    # Digests, not tokens: what a desktop's user reads here opens nothing, also after the share has ended.
    master = {"secretKeyRef": {"name": secret, "key": PASSWORD_DIGEST_KEY}}
    # The user of a desktop without a gateway knows its password. There are no shares.
    password = {"secretKeyRef": {"name": secret, "key": PASSWORD_KEY}}
    token = {"secretKeyRef": {"name": secret, "key": AGENT_TOKEN_DIGEST_KEY}}
    door: list[dict[str, Any]] = []
    if desktop.behind_gateway and desktop.selkies:
        # Selkies' secure mode: it lets in only users that the gateway has named, in the role that the gateway says.
        door = [
            {"name": "SELKIES_ENABLE_BASIC_AUTH", "value": "false"},
            {"name": MASTER_TOKEN_DIGEST, "valueFrom": master},
        ]
    elif desktop.selkies:
        door = [
            {"name": "SELKIES_ENABLE_BASIC_AUTH", "value": "true"},
            {"name": "SELKIES_BASIC_AUTH_USER", "value": USERNAME},
            {"name": "SELKIES_BASIC_AUTH_PASSWORD", "valueFrom": password},
        ]
    ours: list[dict[str, Any]] = [
        *door,
        {"name": "VDI_AGENT_PORT", "value": str(agent_port)},
        {"name": "VDI_AGENT_TOKEN_SHA256", "valueFrom": token},
    ]
    if desktop.startup_script:
        ours.append({"name": "VDI_STARTUP_SCRIPT", "value": f"{SCRIPT_FOLDER}/{_SCRIPT_FILE}"})
    if not desktop.gpu:
        # Images built for GPUs ask for all of them: without this, a desktop that asked for none would see every GPU.
        ours.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    given = {variable.name for variable in desktop.env}
    # With Selkies 1, nginx has the port, and Selkies behind it one of its own.
    name = {"1": "NGINX_PORT", "2": "SELKIES_PORT"}.get(desktop.selkies, "")
    port = [] if not name or name in given else [{"name": name, "value": str(desktop.port)}]
    return [*(msgspec.to_builtins(variable) for variable in desktop.env), *port, *ours]


def _volumes(desktop: Desktop) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": desktop.shm_size}}]
    if desktop.home:
        volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": desktop.home.claim}})
    volumes.extend({"name": volume.name, **_source(volume)} for volume in desktop.volumes)
    if desktop.startup_script:
        script = desktop.startup_script.config_map_key_ref
        items = [{"key": script.key, "path": _SCRIPT_FILE}]
        volumes.append(
            {"name": SCRIPT_VOLUME, "configMap": {"name": script.name, "items": items, "defaultMode": _SCRIPT_MODE}}
        )
    return volumes


def _source(volume: TemplateVolume) -> dict[str, Any]:
    # With a folder of it the kubelet has to be able to create that; what may be written is for the mounts to say.
    read_only = volume.read_only and not volume.sub_path and not volume.groups
    if volume.persistent_volume_claim:
        claim = volume.persistent_volume_claim.claim_name
        return {"persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}
    if volume.config_map:
        return {"configMap": {"name": volume.config_map.name}}
    if volume.secret:
        return {"secret": {"secretName": volume.secret.secret_name, "defaultMode": _SECRET_MODE}}
    if volume.nfs:
        return {"nfs": {"server": volume.nfs.server, "path": volume.nfs.path, "readOnly": read_only}}
    allowed = "persistentVolumeClaim, configMap, secret, nfs"
    raise ValueError(f"volume {volume.name!r} has no source; allowed: one of {allowed}")


def _mounts(desktop: Desktop) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 -- Chromium's shared memory
    if desktop.home:
        mounts.append({"name": "home", "mountPath": desktop.home.mount_path})
    for mount in desktop.mounts:
        described: dict[str, Any] = {"name": mount.volume, "mountPath": mount.path}
        if mount.sub_path:
            described["subPath"] = mount.sub_path
        mounts.append({**described, "readOnly": True} if mount.read_only else described)
    if desktop.startup_script:
        mounts.append({"name": SCRIPT_VOLUME, "mountPath": SCRIPT_FOLDER, "readOnly": True})
    return mounts


def _folders_in_home(desktop: Desktop) -> list[str]:
    """The folders of the home that volumes are mounted in, but not the home itself."""
    if desktop.home is None:
        return []
    home = PurePosixPath(desktop.home.mount_path)
    above = {PurePosixPath(mount.path).parent for mount in desktop.mounts}
    return sorted(str(folder) for folder in above if folder.is_relative_to(home) and folder != home)


def _folder_maker(desktop: Desktop, folders: list[str]) -> dict[str, Any]:
    """Makes the folders in the home as the desktop's user: the container runtime would make them as root.

    A desktop that cannot write to its own ~/.config does not start.
    """
    resources = _resources(desktop)
    for amounts in resources.values():
        amounts.pop(desktop.gpu_resource, None)
    return {
        "name": FOLDER_MAKER,
        "image": desktop.image,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["mkdir", "-p", "--", *folders],
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": resources,
        "securityContext": restricted_container(),
        "volumeMounts": [{"name": "home", "mountPath": str(desktop.home.mount_path)}] if desktop.home else [],
    }
