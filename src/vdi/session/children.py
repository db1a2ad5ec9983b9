"""Kubernetes objects of a session: pod, home volume, Secret, Service and IngressRoute. Pure; the
operator applies them.

Every pod passes the Pod Security Standard `restricted`. The pod gets digests of its tokens and not
the tokens, because its user can read its whole environment.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import msgspec

from vdi.api.template import Protocol, Scheme, TemplateVolume
from vdi.cluster.objects import BareMeta, ChildMeta, Pod
from vdi.cluster.units import EPHEMERAL_STORAGE
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.credentials import DesktopTokens
from vdi.session.effective import Desktop
from vdi.session.homes import Home
from vdi.session.naming import (
    HOLD,
    HOST,
    ISOLATION,
    MANAGED_BY,
    PROTOCOL,
    RECORDING,
    SCHEME,
    SESSION_LABEL,
    STORAGE,
    TEMPLATE_ANNOTATION,
    TEMPLATE_LABEL,
    TEMPLATE_REVISION,
    USER_ANNOTATION,
    Identity,
    PoolIdentity,
    derive_base,
    owner_reference,
    pod_name,
    pool_secret_name,
    route_name,
    secret_name,
    service_name,
)
from vdi.session.volumes import SCRIPT_FOLDER, SCRIPT_VOLUME

# User name of Selkies' basic auth; the password is the Secret's.
USERNAME = "user"
PASSWORD_KEY = "password"  # noqa: S105 -- the key's name
AGENT_TOKEN_KEY = "agentToken"  # noqa: S105 -- the key's name
PASSWORD_DIGEST_KEY = "passwordSha256"  # noqa: S105 -- the key's name
AGENT_TOKEN_DIGEST_KEY = "agentTokenSha256"  # noqa: S105 -- the key's name
# Name of the pod's port: the Service asks for it by name, so a template's new port breaks no
# running desktop.
PORT_NAME = "http"
_PORT = 8080
# The chart's ServersTransport in the sessions' namespace: TLS without verification. Only routes to
# pods with HTTPS name it: their certificates are the images' own, which no authority has signed.
DESKTOP_TRANSPORT = "vdi-desktop-tls"
# Not an empty map: where the route named a Secret before, server-side apply would make it null,
# which Traefik's CRD refuses.
_DEFAULT_CERTIFICATE = {"certResolver": ""}
CONTAINER = "desktop"
FOLDER_MAKER = "home-folders"
AGENT_PORT_NAME = "agent"
MASTER_TOKEN_DIGEST = "VDI_MASTER_TOKEN_SHA256"  # noqa: S105 -- the variable's name
_SCRIPT_FILE, _SCRIPT_MODE = "startup.sh", 0o555
# The pod's group (fsGroup) reads; the user does not own the files, so ssh takes a private key with
# this mode.
_SECRET_MODE = 0o440
# A desktop has nothing to save on SIGTERM that it has not saved before, and a session must be gone
# within 10 s.
_GRACE_SECONDS = 3


def restricted_pod(user_id: int, *, owns_volumes: bool = False) -> dict[str, Any]:
    """Fields of a pod's `spec` for that user and group, without a token and without the variables
    of Services.

    `owns_volumes`: its volumes belong to that group, so that the user can write to them.
    """
    security: dict[str, Any] = {
        "runAsNonRoot": user_id != 0,
        "runAsUser": user_id,
        "runAsGroup": user_id,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if owns_volumes:
        security |= {"fsGroup": user_id, "fsGroupChangePolicy": "OnRootMismatch"}
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
    }
    # `restricted` admits root in a user namespace alone.
    return spec if user_id else spec | {"hostUsers": False}


def bound_to(nodes: Iterable[str]) -> dict[str, Any]:
    """The `affinity` of a pod that may run on these nodes only."""
    # `matchFields` takes one name; of several terms, one must hold.
    terms = [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        for node in nodes
    ]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }


def restricted_container(*, is_read_only: bool = False) -> dict[str, Any]:
    """The `securityContext` of a container that passes `restricted`."""
    read_only = {"readOnlyRootFilesystem": True} if is_read_only else {}
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **read_only}


def build_secret(*, identity: Identity, tokens: DesktopTokens) -> dict[str, Any]:
    """The Secret of a session. Immutable: a running desktop has read it and would not notice a
    change.
    """
    return _secret(identity.metadata(secret_name(identity.name)), tokens)


def build_pool_secret(
    *, identity: PoolIdentity, pod: str, pod_uid: str, tokens: DesktopTokens
) -> dict[str, Any]:
    """The Secret of a pool's desktop. The pod owns it, because the pod's own owner changes when a
    session takes it.
    """
    metadata = identity.metadata(pool_secret_name(pod))
    metadata["ownerReferences"] = [owner_reference("Pod", pod, pod_uid, "v1")]
    return _secret(metadata, tokens)


def _secret(metadata: dict[str, Any], tokens: DesktopTokens) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "immutable": True,
        "stringData": {
            PASSWORD_KEY: tokens.password,
            PASSWORD_DIGEST_KEY: _digest(tokens.password),
            AGENT_TOKEN_KEY: tokens.agent,
            AGENT_TOKEN_DIGEST_KEY: _digest(tokens.agent),
        },
    }


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def build_service(*, identity: Identity) -> dict[str, Any]:
    """A headless Service: Traefik reads the EndpointSlice, and allocating a cluster IP is the
    slowest of all writes.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": identity.metadata(service_name(identity.name)),
        "spec": {
            "clusterIP": "None",
            "selector": {SESSION_LABEL: identity.labels[SESSION_LABEL]},
            "ports": [
                {"name": PORT_NAME, "port": _PORT, "targetPort": PORT_NAME, "protocol": "TCP"}
            ],
        },
    }


def build_route(
    *, identity: Identity, host: str, settings: ClusterSettings, scheme: Scheme = Scheme.HTTP
) -> dict[str, Any]:
    """The route of one host. `scheme`: that of the pod."""
    service = {"kind": "Service", "name": service_name(identity.name), "port": PORT_NAME}
    if scheme is Scheme.HTTPS:
        service |= {"scheme": "https", "serversTransport": DESKTOP_TRANSPORT}
    rule: dict[str, Any] = {"kind": "Rule", "match": f"Host(`{host}`)", "services": [service]}
    if settings.edge_middleware:
        rule["middlewares"] = [{"name": settings.edge_middleware}]
    return {
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "IngressRoute",
        "metadata": identity.metadata(route_name(identity.name), {HOST: host}),
        "spec": {"entryPoints": [settings.entry_point], "routes": [rule], "tls": _tls(settings)},
    }


def _tls(settings: ClusterSettings) -> dict[str, Any]:
    """The named Secret, the named resolver, or Traefik's default certificate."""
    if settings.tls_secret:
        # With a gateway the portal's route names the Secret, and Traefik presents its certificate
        # for every host that it covers. So the private key is not in the sessions' namespace, of
        # which the gateway reads every Secret.
        if settings.edge_middleware:
            return _DEFAULT_CERTIFICATE
        return {"secretName": settings.tls_secret}
    if settings.cert_resolver:
        # Named as in the chart's own route: without it Traefik orders a certificate for each
        # desktop's host.
        return {
            "certResolver": settings.cert_resolver,
            "domains": [{"main": f"*.{settings.domain}"}],
        }
    return _DEFAULT_CERTIFICATE


def build_home(*, identity: Identity, home: Home) -> dict[str, Any]:
    """The PersistentVolumeClaim. A retained one has no owner: the garbage collector would take it
    with that session.
    """
    if home.retain:
        annotations = {USER_ANNOTATION: identity.user}
        if not home.of_user:
            annotations[TEMPLATE_ANNOTATION] = identity.template
        metadata: dict[str, Any] = {
            "name": home.claim,
            "namespace": identity.namespace,
            "labels": dict(MANAGED_BY),
            "annotations": annotations,
        }
    else:
        metadata = identity.metadata(home.claim)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": [home.access_mode.value],
            "storageClassName": home.storage_class,
            "resources": {"requests": {"storage": home.size}},
        },
    }


def build_pod(
    *,
    identity: Identity,
    desktop: Desktop,
    run: Mapping[str, str] | None = None,
    agent_port: int = 8082,
) -> dict[str, Any]:
    """The Pod of a session. `run`: annotations of `run_annotations`."""
    metadata = identity.metadata(pod_name(identity.name), run)
    metadata["labels"][HOLD] = "true"
    return _build_desktop(
        metadata, identity.template, desktop, secret_name(identity.name), agent_port
    )


def build_pool_pod(
    *,
    identity: PoolIdentity,
    name: str,
    desktop: Desktop,
    annotations: Mapping[str, str],
    agent_port: int = 8082,
) -> dict[str, Any]:
    """The Pod of a pool's desktop: like that of a session, but with a Secret of its own."""
    metadata = identity.metadata(name, annotations)
    return _build_desktop(metadata, identity.template, desktop, pool_secret_name(name), agent_port)


def _build_desktop(
    metadata: dict[str, Any], template: str, desktop: Desktop, secret: str, agent_port: int
) -> dict[str, Any]:
    theirs = desktop.pod_template.metadata
    # The operator's keys come last, so a template cannot overwrite them.
    labels = {**theirs.labels, **metadata["labels"], TEMPLATE_LABEL: derive_base(template)}
    annotations = {
        **theirs.annotations,
        **metadata["annotations"],
        TEMPLATE_REVISION: desktop.template_revision,
    }
    if desktop.scheme is not Scheme.HTTP:
        annotations[SCHEME] = desktop.scheme.value
    if mode := next(
        (variable.value for variable in desktop.env if variable.name == "VDI_RECORDING"), ""
    ):
        annotations[RECORDING] = mode
    if not desktop.selkies:
        annotations[PROTOCOL] = Protocol.WEB.value
    if desktop.isolation.obstacle:
        annotations[ISOLATION] = desktop.isolation.obstacle
    if desktop.isolation.user_namespace:
        annotations[STORAGE] = desktop.isolation.storage
    metadata |= {"labels": labels, "annotations": annotations}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": build_spec(desktop, secret, agent_port),
    }


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
    if desktop.isolation.user_namespace:
        spec["hostUsers"] = False
    if desktop.isolation.nodes:
        spec["affinity"] = bound_to(desktop.isolation.nodes)
    placement = desktop.placement
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [
            msgspec.to_builtins(toleration) for toleration in placement.tolerations
        ]
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
        # The last log lines outlive the container: a desktop that is given up is explained with
        # them.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in ((PORT_NAME, desktop.port), (AGENT_PORT_NAME, agent_port))
        ],
        "env": _env(desktop, secret, agent_port),
        "resources": _resources(desktop),
        "securityContext": restricted_container(),
        "volumeMounts": _mounts(desktop),
        # Once a second, because a person is waiting; forgiving, because a busy desktop must not
        # lose its route.
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
    if desktop.scheme is Scheme.HTTP:
        scheme = {}
    else:
        scheme = {"scheme": desktop.scheme.value}
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
    """The template's variables, then the operator's: of two with one name Kubernetes takes the
    last.
    """
    # Digests, not tokens: a guest with full control can read them here, but they are of no use
    # after the share.
    master = {"secretKeyRef": {"name": secret, "key": PASSWORD_DIGEST_KEY}}
    # The user of a desktop without a gateway knows its password. There are no shares.
    password = {"secretKeyRef": {"name": secret, "key": PASSWORD_KEY}}
    token = {"secretKeyRef": {"name": secret, "key": AGENT_TOKEN_DIGEST_KEY}}
    door: list[dict[str, Any]] = []
    if desktop.behind_gateway and desktop.selkies:
        # Selkies' secure mode: it accepts only users of the gateway's token table, in the role that
        # stands there.
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
    given = {variable.name for variable in desktop.env}
    if "VDI_WATERMARK" in given:  # a pod of a pool has no user yet: its desktop does not start
        ours.append(
            {
                "name": "VDI_USER",
                "valueFrom": {
                    "fieldRef": {"fieldPath": f"metadata.annotations['{USER_ANNOTATION}']"}
                },
            }
        )
    if desktop.time_zone:
        ours.append({"name": "TZ", "value": desktop.time_zone})
    if desktop.startup_script:
        ours.append({"name": "VDI_STARTUP_SCRIPT", "value": f"{SCRIPT_FOLDER}/{_SCRIPT_FILE}"})
    if not desktop.gpu:
        # Images built for GPUs request all of them. Without this, a desktop without a GPU would see
        # every GPU of the node.
        ours.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    # With Selkies 1, nginx serves the port, and Selkies has one of its own behind it.
    name = {"1": "NGINX_PORT", "2": "SELKIES_PORT"}.get(desktop.selkies, "")
    if not name or name in given:
        port = []
    else:
        port = [{"name": name, "value": str(desktop.port)}]
    return [*(msgspec.to_builtins(variable) for variable in desktop.env), *port, *ours]


def _volumes(desktop: Desktop) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": desktop.shm_size}}
    ]
    if desktop.home:
        volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": desktop.home.claim}})
    elif not desktop.run_as_user:
        volumes.append({"name": "home", "emptyDir": {}})
    volumes.extend({"name": volume.name, **_source(volume)} for volume in desktop.volumes)
    images = {mount.volume: {"reference": mount.image} for mount in desktop.mounts if mount.image}
    volumes.extend(
        {"name": name, "image": {**image, "pullPolicy": "IfNotPresent"}}
        for name, image in images.items()
    )
    if desktop.startup_script:
        script = desktop.startup_script.config_map_key_ref
        items = [{"key": script.key, "path": _SCRIPT_FILE}]
        volumes.append(
            {
                "name": SCRIPT_VOLUME,
                "configMap": {"name": script.name, "items": items, "defaultMode": _SCRIPT_MODE},
            }
        )
    return volumes


def _source(volume: TemplateVolume) -> dict[str, Any]:
    # The kubelet has to create a missing folder, so a volume with folders is writable here. The
    # mounts decide what the desktop may write.
    read_only = volume.read_only and not volume.sub_path and not volume.groups
    if volume.persistent_volume_claim:
        claim = volume.persistent_volume_claim.claim_name
        return {"persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}
    if volume.config_map:
        return {"configMap": {"name": volume.config_map.name}}
    if volume.secret:
        return {"secret": {"secretName": volume.secret.secret_name, "defaultMode": _SECRET_MODE}}
    if volume.nfs:
        return {
            "nfs": {"server": volume.nfs.server, "path": volume.nfs.path, "readOnly": read_only}
        }
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
    """Folders in the home in which volumes are mounted, without the home itself."""
    if desktop.home is None:
        return []
    home = PurePosixPath(desktop.home.mount_path)
    above = {PurePosixPath(mount.path).parent for mount in desktop.mounts}
    return sorted(str(folder) for folder in above if folder.is_relative_to(home) and folder != home)


def _folder_maker(desktop: Desktop, folders: list[str]) -> dict[str, Any]:
    """An init container that creates folders in the home as the desktop's user. The runtime would
    create them as root.

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
        "volumeMounts": (
            [{"name": "home", "mountPath": str(desktop.home.mount_path)}] if desktop.home else []
        ),
    }


class RouteAnnotations(msgspec.Struct, gc=False):
    host: str = msgspec.field(name=HOST, default="")


class RouteMeta(BareMeta, rename="camel", gc=False, kw_only=True):
    annotations: RouteAnnotations = msgspec.field(default_factory=RouteAnnotations)


class Route(msgspec.Struct, gc=False):
    """An IngressRoute, as the operator watches it."""

    metadata: RouteMeta

    @property
    def host(self) -> str:
        """The host of the route; empty when the annotation is missing."""
        return self.metadata.annotations.host


class SecretData(msgspec.Struct, rename="camel", gc=False):
    """`data` of a Secret, without the password: the operator forgets that as soon as it is sent."""

    # Base64.
    agent_token: str = ""


class Secret(msgspec.Struct, gc=False):
    """The Secret of one desktop, as the operator watches it."""

    metadata: BareMeta
    data: SecretData = msgspec.field(default_factory=SecretData)

    @property
    def agent_token(self) -> str:
        """Empty when it is missing or no text."""
        try:
            return b64decode(self.data.agent_token).decode()
        except ValueError:
            return ""


class ReservationData(msgspec.Struct, gc=False):
    """`data` of the ConfigMap that records who owns a host label."""

    user: str = ""


class HostReservation(msgspec.Struct, gc=False):
    """The ConfigMap that records who owns a host label."""

    metadata: ChildMeta
    data: ReservationData = msgspec.field(default_factory=ReservationData)


def scheme_of(pod: Pod) -> Scheme:
    """The scheme that the pod serves on its port, whatever its template says by now."""
    return Scheme(pod.metadata.annotations.get(SCHEME, Scheme.HTTP))
