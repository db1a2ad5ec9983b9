"""What can be broken on a real node, and what the doctor has to say first of all. Each fixes what
it has broken.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import yaml

from e2e.conftest import NAME
from e2e.desktops import Object, home_claim_of, reach, start, template
from e2e.world import World
from support.certificates import self_signed
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster import cluster

Break = Callable[[World], Iterator[None]]
FAULTS: dict[str, tuple[str, Callable[[World], AbstractContextManager[None]]]] = {}
RELEASE = ("-n", RELEASE_NAMESPACE)
SYSTEM = ("-n", "kube-system")
_DEBIAN = "docker.io/library/debian:13-slim"
_LIBRARIES = "/opt/selkies/lib/python3.13/site-packages/pixelflux.libs"


def fault(code: str) -> Callable[[Break], Break]:
    """A fault, and the code of its cause."""

    def note(make: Break) -> Break:
        FAULTS[make.__name__] = code, contextmanager(make)
        return make

    return note


def replicas(world: World, where: tuple[str, ...], name: str, number: int) -> None:
    """Scale a Deployment, and wait until it is so."""
    world.kubectl(*where, "scale", "deployment", name, f"--replicas={number}")

    def done() -> bool:
        found = json.loads(world.kubectl(*where, "get", "deployment", name, "-o", "json"))["status"]
        return int(found.get("readyReplicas", 0)) == number == int(found.get("replicas", 0))

    wait_until(f"{name} has {number} replicas", done, 90)


@contextmanager
def without(world: World, where: tuple[str, ...], name: str) -> Iterator[None]:
    """A Deployment scaled to 0 while the context lasts."""
    before = int(
        json.loads(world.kubectl(*where, "get", "deployment", name, "-o", "json"))["spec"][
            "replicas"
        ]
    )
    replicas(world, where, name, 0)
    try:
        yield
    finally:
        replicas(world, where, name, before)


@contextmanager
def environment(world: World, name: str, *pairs: str) -> Iterator[None]:
    """Settings of a Deployment of the release while the context lasts, as `kubectl set env` writes
    them.
    """
    world.kubectl(*RELEASE, "set", "env", f"deployment/{name}", *pairs)
    try:
        yield
    finally:
        world.kubectl(*RELEASE, "rollout", "undo", f"deployment/{name}")
        world.kubectl(*RELEASE, "rollout", "status", f"deployment/{name}", "--timeout=120s")


@contextmanager
def applied(world: World, body: Object) -> Iterator[None]:
    """An object that is there while the context lasts."""
    text, where = yaml.safe_dump(body), ("-n", body["metadata"].get("namespace", "default"))
    world.kubectl(*where, "apply", "-f", "-", stdin=text)
    try:
        yield
    finally:
        world.kubectl(*where, "delete", "-f", "-", "--ignore-not-found", stdin=text)


@contextmanager
def taken_away(world: World, *what: str) -> Iterator[None]:
    """An object that is not there while the context lasts."""
    found = json.loads(world.kubectl("get", *what, "-o", "json"))
    kept = {
        key: found["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")
    }
    body = {**found, "metadata": {key: value for key, value in kept.items() if value}}
    world.kubectl("delete", *what)
    try:
        yield
    finally:
        place = []
        if "namespace" in body["metadata"]:
            place = ["--namespace", body["metadata"]["namespace"]]
        world.kubectl("create", *place, "-f", "-", stdin=yaml.safe_dump(body))


def on_node(world: World, folder: str, image: str, user: int, *command: str) -> None:
    """A command on the node, in a pod with a folder of the node at /node, until it has ended
    well.
    """
    mounts = [{"name": "node", "mountPath": "/node"}]
    container = {"name": "mender", "image": image, "command": [*command], "volumeMounts": mounts}
    spec: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    spec |= {
        "securityContext": {"runAsUser": user},
        "volumes": [{"name": "node", "hostPath": {"path": folder}}],
    }
    meta = {"name": "mender", "namespace": "kube-system"}
    with applied(world, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}):
        world.kubectl(
            *SYSTEM,
            "wait",
            "pod/mender",
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=60s",
        )


def folder_of(world: World, claim: Object) -> str:
    """The folder on the node that a bound claim has."""
    volume = json.loads(world.kubectl("get", "pv", claim["spec"]["volumeName"], "-o", "json"))[
        "spec"
    ]
    return str((volume.get("hostPath") or volume["local"])["path"])


def as_root(world: World, script: str, folder: str) -> None:
    """A shell script on the node, as root, with that folder at /node."""
    on_node(world, folder, _DEBIAN, 0, "sh", "-ec", script)


@contextmanager
def desktop(world: World, name: str, *, wait: bool = False, **spec: Any) -> Iterator[None]:
    """A session of a template of its own; the template is there while the context lasts."""
    with template(world, name, **spec):
        start(world, name, name, wait=wait)
        yield


# The image and its settings


@fault("library_missing")
def a_library_is_not_in_the_image(world: World) -> Iterator[None]:
    """What pixelflux was linked with is hidden: the page says "Waiting for stream", and the log
    says why.
    """
    empty = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "empty", "namespace": "vdi-sessions"},
    }
    volume = {"name": "hidden", "mountPath": _LIBRARIES, "configMap": {"name": "empty"}}
    with applied(world, empty), desktop(world, "bare", volumes=[volume]):
        yield


# Homes


@fault("home_not_writable")
def a_folder_in_the_home_is_roots_alone(world: World) -> Iterator[None]:
    """As somebody leaves it who has restored a backup as root. (The home's own folder the kubelet
    fixes by itself.)
    """
    start(world, "home", "small")
    claim = world.get("pvc", home_claim_of(world, "home"))
    assert claim
    path = folder_of(world, claim)
    world.vdi("session", "suspend", "home")
    reach(world, "home", "Suspended")
    as_root(
        world,
        "cd /node; rm -rf .config .cache; mkdir .config .cache; chmod 0700 .config .cache",
        path,
    )
    try:
        world.vdi("session", "resume", "home")
        yield
    finally:
        as_root(world, "cd /node; rm -rf .config .cache", path)


@fault("storage_class_missing")
def a_storage_class_that_no_one_has(world: World) -> Iterator[None]:
    with desktop(world, "fast", persistence={"storageClass": "fast-ssd"}):
        yield
    for claim in world.items("pvc"):
        if claim["spec"].get("storageClassName") == "fast-ssd":
            world.kubectl("delete", "pvc", claim["metadata"]["name"])


@fault("home_mounted_twice")
def somebody_elses_pod_has_the_home(world: World) -> Iterator[None]:
    start(world, "twice", "small")
    home = {"name": "home", "persistentVolumeClaim": {"claimName": home_claim_of(world, "twice")}}
    container = {
        "name": "shell",
        "image": "localhost/vdi/desktop:dev",
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "home", "mountPath": "/home/user"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    secure = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    meta = {"name": "intruder", "namespace": "vdi-sessions"}
    spec = {
        "volumes": [home],
        "containers": [container],
        "securityContext": secure,
        "terminationGracePeriodSeconds": 0,
    }
    with applied(world, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}):
        yield


# The operator


@fault("operator_settings_bad")
def the_operator_cannot_read_its_settings(world: World) -> Iterator[None]:
    with without(world, RELEASE, "vdi-operator"):
        pass  # the old replicas would go on while the new ones fail
    with environment(world, "vdi-operator", "VDI_DRAIN_NOTICE=soon"):
        yield


# What the API server and the scheduler refuse


@fault("pod_refused")
def a_quota_lets_no_pod_in(world: World) -> Iterator[None]:
    meta = {"name": "none", "namespace": "vdi-sessions"}
    spec = {"hard": {"pods": "0"}}
    with applied(
        world, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec}
    ):
        start(world, "quota", "small", wait=False)
        yield


@fault("pod_refused")
def a_webhook_lets_no_pod_in(world: World) -> Iterator[None]:
    """Its server is not there, and it says that nothing may pass then."""
    hook = {
        "name": "pods.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "vdi-sessions"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    body: Object = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
    }
    with applied(world, {**body, "metadata": {"name": "closed"}, "webhooks": [hook]}):
        start(world, "hook", "small", wait=False)
        yield


@fault("template_missing")
def the_template_is_gone(world: World) -> Iterator[None]:
    meta = {"name": "ghost", "namespace": "vdi-sessions"}
    spec = {"user": "ghost@example.com", "template": "nobody"}
    with applied(
        world,
        {
            "apiVersion": "vdi.kasm.io/v1alpha1",
            "kind": "VDISession",
            "metadata": meta,
            "spec": spec,
        },
    ):
        yield


@fault("room_insufficient")
def no_node_is_so_large(world: World) -> Iterator[None]:
    big = {"defaultGPU": 0, "defaultMemory": "800Gi", "maxMemory": "900Gi"}
    with environment(world, "vdi-operator", "VDI_REQUESTS_MEMORY=800Gi"):
        world.kubectl(*RELEASE, "rollout", "status", "deployment/vdi-operator", "--timeout=120s")
        with desktop(world, "big", resources=big):
            yield


# No rule was written for these: the API says that something is not well


@fault("unexplained_condition")
def a_pool_of_a_template_with_a_home(world: World) -> Iterator[None]:
    body: Object = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDIPool",
        "metadata": {"name": "homely"},
    }
    with (
        template(world, "homely") as name,
        applied(world, {**body, "spec": {"template": name, "replicas": 1}}),
    ):
        yield


@fault("deletion_stuck")
def somebody_elses_finalizer_is_on_a_claim(world: World) -> Iterator[None]:
    meta: Object = {
        "name": "kept",
        "namespace": "vdi-sessions",
        "finalizers": ["backup.example.com/hold"],
    }
    meta["labels"] = {"app.kubernetes.io/managed-by": "vdi-operator"}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
    where = ("-n", "vdi-sessions")
    world.kubectl("create", "-f", "-", stdin=yaml.safe_dump(body))
    world.kubectl(*where, "delete", "pvc", "kept", "--wait=false")
    try:
        yield
    finally:
        world.kubectl(
            *where,
            "patch",
            "pvc",
            "kept",
            "--type=merge",
            "--patch",
            '{"metadata":{"finalizers":null}}',
        )


# The way in


@fault("database_newer")
def a_newer_gateway_has_been_here(world: World) -> Iterator[None]:
    def revision(statement: str) -> str:
        script = (
            "import sqlite3; c = sqlite3.connect('/data/vdi.db'); r ="
            f" c.execute({statement!r}).fetchall(); c.commit()"
        )
        run = (
            "exec",
            "deployment/vdi-gateway",
            "--",
            "python3",
            "-c",
            f"{script}; print(r[0][0] if r else '')",
        )
        return world.kubectl(*RELEASE, *run).strip()

    known = revision("SELECT version_num FROM alembic_version")
    revision("UPDATE alembic_version SET version_num = '9999_next'")
    world.kubectl(*RELEASE, "rollout", "restart", "deployment/vdi-gateway")
    try:
        yield
    finally:
        # With the gateway's own Python, since the gateway itself does not start.
        claim = json.loads(world.kubectl(*RELEASE, "get", "pvc", "vdi-gateway", "-o", "json"))
        update = f"UPDATE alembic_version SET version_num = '{known}'"
        script = (
            f"import sqlite3; c = sqlite3.connect('/node/vdi.db'); c.execute({update!r});"
            " c.commit()"
        )
        on_node(
            world, folder_of(world, claim), "localhost/vdi/vdi:dev", 65532, "python3", "-c", script
        )
        world.kubectl(*RELEASE, "rollout", "restart", "deployment/vdi-gateway")
        world.kubectl(*RELEASE, "rollout", "status", "deployment/vdi-gateway", "--timeout=120s")


@fault("database_unreachable")
def the_database_cannot_be_written(world: World) -> Iterator[None]:
    """Somebody holds its write lock: it answers, and the gateway stays ready."""
    hold = (
        "import sqlite3, time; c = sqlite3.connect('/data/vdi.db'); c.execute('BEGIN IMMEDIATE');"
        " time.sleep(400)"
    )
    argv = ["kubectl", *RELEASE, "exec", "deployment/vdi-gateway", "--", "python3", "-c", hold]
    holder = subprocess.Popen(argv, env={**os.environ, "KUBECONFIG": str(world.kubeconfig)})
    try:
        start(world, "unwritten", "small")
        yield
    finally:
        holder.terminate()
        holder.wait()
        world.kubectl(*RELEASE, "rollout", "restart", "deployment/vdi-gateway")
        world.kubectl(*RELEASE, "rollout", "status", "deployment/vdi-gateway", "--timeout=120s")


@fault("route_shadowed")
def another_route_takes_the_host(world: World) -> Iterator[None]:
    start(world, "shadow", "small")
    host = urlsplit(world.get("vdi", "shadow")["status"]["url"]).hostname  # type: ignore[index]
    rule = {
        "kind": "Rule",
        "match": f"Host(`{host}`)",
        "priority": 900,
        "services": [{"name": "web", "port": 80}],
    }
    meta = {"name": "web", "namespace": "vdi-sessions"}
    route: Object = {"apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": meta}
    with applied(world, {**route, "spec": {"entryPoints": ["websecure"], "routes": [rule]}}):
        yield


@fault("route_shadowed")
def an_ingress_of_another_namespace_takes_the_host(world: World) -> Iterator[None]:
    start(world, "ingress", "small")
    host = urlsplit(world.get("vdi", "ingress")["status"]["url"]).hostname  # type: ignore[index]
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    rule = {
        "host": host,
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
    }
    ingress: Object = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
    }
    ingress["metadata"]["namespace"] = "default"
    with applied(world, {**ingress, "spec": {"ingressClassName": "traefik", "rules": [rule]}}):
        yield


@fault("backend_unreachable")
def the_gateways_service_selects_no_pod(world: World) -> Iterator[None]:
    """Every desktop responds with 500, and all pods are ready."""
    start(world, "unasked", "small")
    patch = ("patch", "service", "vdi-gateway", "--type", "merge", "--patch")
    world.kubectl(*RELEASE, *patch, '{"spec": {"selector": {"app": "gone"}}}')
    try:
        yield
    finally:
        world.kubectl(*RELEASE, *patch, '{"spec": {"selector": {"app": null}}}')


@fault("traefik_down")
def traefik_is_scaled_away(world: World) -> Iterator[None]:
    """The node's own Traefik is a process: this is the Deployment of a K3s, with no replica."""
    labels = {"app.kubernetes.io/name": "traefik"}
    container = {"name": "traefik", "image": "docker.io/rancher/mirrored-library-traefik:3.7.4"}
    template: Object = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec: Object = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": "traefik", "namespace": "kube-system"}
    with applied(
        world, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    ):
        yield


@fault("middleware_missing")
def the_middleware_is_gone(world: World) -> Iterator[None]:
    start(world, "middle", "small")
    with taken_away(world, "middlewares.traefik.io", "vdi-edge"):
        yield


@contextmanager
def certificate(world: World, name: str, days: int) -> Iterator[None]:
    """A certificate for this name, over so many days from now, on the route of a session."""
    made, key = self_signed(name, days=days)
    data = {"tls.crt": made, "tls.key": key}
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "stringData": data,
    }
    with (
        applied(world, {**secret, "metadata": {"name": "wild", "namespace": "vdi-system"}}),
        environment(world, "vdi-operator", "VDI_TLS_SECRET=wild"),
    ):
        start(world, "tls", "small")
        yield


# The cluster


@fault("node_not_ready")
def the_kubelet_hangs(world: World) -> Iterator[None]:
    """Nothing else is wrong: what runs there counts as not ready, because no one reports it."""
    (kubelet,) = [
        component for component in cluster.status(NAME).components if component.name == "kubelet"
    ]
    os.kill(kubelet.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kubelet.pid, signal.SIGCONT)


@fault("provisioner_silent")
def no_one_makes_volumes(world: World) -> Iterator[None]:
    names = json.loads(world.kubectl("get", "deployments", "-A", "-o", "json"))["items"]
    (where,) = [name["metadata"] for name in names if "local-path" in name["metadata"]["name"]]
    with without(world, ("-n", where["namespace"]), where["name"]):
        start(world, "unhoused", "small", wait=False)
        yield


_NO_SECRET = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "nobody", "key": "word"}}}
_NO_CONFIG_MAP = {"name": "more", "mountPath": "/more", "configMap": {"name": "nobody"}}
_OLD_ENCODER = {"name": "SELKIES_ENCODER", "value": "nvh264enc"}
_PORT = {"name": "SELKIES_PORT", "value": "8080"}
_TIGHT, _SLOW = {"defaultGPU": 0, "defaultMemory": "96Mi"}, {"defaultGPU": 0, "defaultCPU": "10m"}
_NO_DATABASE = "VDI_DATABASE_URL=postgresql+asyncpg://vdi:word@127.0.0.1:9/vdi"

FAULTS |= {
    # Desktops of a template with one mistake
    "the_image_is_nowhere": (
        "image_unavailable",
        lambda world: desktop(world, "typo", image="localhost/vdi/desktpo:dev"),
    ),
    "the_image_is_no_desktop": (
        "desktop_crashes",
        lambda world: desktop(world, "brief", image=_DEBIAN),
    ),
    "too_little_memory": (
        "desktop_out_of_memory",
        lambda world: desktop(world, "tight", resources=_TIGHT),
    ),
    "a_secret_of_the_template_is_missing": (
        "reference_missing",
        lambda world: desktop(world, "secret", env=[_NO_SECRET]),
    ),
    "a_volume_of_the_template_is_missing": (
        "reference_missing",
        lambda world: desktop(world, "volume", volumes=[_NO_CONFIG_MAP]),
    ),
    "an_encoder_of_selkies_1": (
        "encoder_obsolete",
        lambda world: desktop(world, "old", env=[_OLD_ENCODER], wait=True),
    ),
    "the_desktop_listens_elsewhere": (
        "desktop_port_wrong",
        lambda world: desktop(world, "port", port=8081, env=[_PORT]),
    ),
    "a_hundredth_of_a_processor": (
        "cpu_limit_low",
        lambda world: desktop(world, "slow", resources=_SLOW),
    ),
    "shared_memory_of_1_mib": (
        "shm_too_small",
        lambda world: desktop(world, "shm", shmSize="1Mi", wait=True),
    ),
    # What is scaled away, taken away or set wrong
    "the_operator_is_scaled_away": (
        "operator_down",
        lambda world: without(world, RELEASE, "vdi-operator"),
    ),
    "the_operators_rights_are_taken": (
        "release_differs",
        lambda world: taken_away(world, "rolebinding", "vdi-operator"),
    ),
    "the_gateway_is_scaled_away": (
        "gateway_down",
        lambda world: without(world, RELEASE, "vdi-gateway"),
    ),
    "the_gateway_cannot_read_its_settings": (
        "gateway_down",
        lambda world: environment(world, "vdi-gateway", "VDI_LOGIN_IDLE=soon"),
    ),
    "the_database_is_not_there": (
        "database_unreachable",
        lambda world: environment(world, "vdi-gateway", _NO_DATABASE),
    ),
    "redis_is_not_there": (
        "redis_unreachable",
        lambda world: environment(world, "vdi-gateway", "VDI_REDIS_URL=redis://127.0.0.1:9/0"),
    ),
    "names_are_not_found": ("dns_down", lambda world: without(world, SYSTEM, "coredns")),
    "the_certificate_is_over": (
        "certificate_expired",
        lambda world: certificate(world, "*.vdi.localhost", -1),
    ),
    "the_certificate_is_for_another_domain": (
        "certificate_for_other_names",
        lambda world: certificate(world, "*.example.com", 300),
    ),
}
