"""A healthy cluster as a snapshot, and ways to break it. What an API server would send, as `trim`
leaves it.
"""

import copy
from typing import Any

import msgspec

from vdi.api.crd import build_crds
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.doctor.checks.run import run_checks
from vdi.doctor.objects.components import LEASE
from vdi.findings.model import Finding, roots
from vdi.session.children import build_home, build_pod, build_route, build_service
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Desktop, resolve
from vdi.session.naming import Identity
from vdi.snapshot.model import (
    Certificate,
    Difference,
    Scope,
    ServiceAttempt,
    Snapshot,
    Unreadable,
)
from vdi.snapshot.objects import Objects, convert_object

Object = dict[str, Any]
CRDS = build_crds()
NOW = "2026-11-20T12:00:00Z"
BEGAN = "2026-11-20T11:00:00Z"
READY = "2026-11-20T11:00:05Z"
JUST_NOW = "2026-11-20T11:59:58Z"
SETTINGS = ClusterSettings(domain="vdi.example.com", tls_secret="wildcard")
SPACE = "vdi-sessions"
POD = "vdi-operator-7d-abc"
PLURALS = (
    "pods leases storageclasses vditemplates vdisessions ingressroutes services endpointslices"
    " persistentvolumeclaims events persistentvolumes middlewares clusterpolicies daemonsets"
    " runtimeclasses configmaps networkpolicies secrets serverstransports vdipools certificates"
    " ingresses tlsoptions limitranges"
)
OPERATOR_LABELS = {"app.kubernetes.io/name": "vdi", "app.kubernetes.io/component": "operator"}


class Cluster:
    """Objects by plural; what a test changes is what is wrong."""

    def __init__(self, sessions: int = 1) -> None:
        self.objects: dict[str, list[Object]] = {plural: [] for plural in PLURALS.split()}
        self.objects["customresourcedefinitions"] = list(copy.deepcopy(CRDS))
        template = {"image": "registry.example.com/desktop:1", "resources": {"defaultGPU": 0}}
        self.add("vditemplates", {"name": "ubuntu-desktop", "generation": 1}, spec=template)
        self.objects["nodes"] = [_node("node-1")]
        self.objects["deployments"] = [_operator(), _traefik()]
        self.add_pod(POD, "kasm", labels=OPERATOR_LABELS)
        lease = {"holderIdentity": f"{POD}_1234", "renewTime": "2026-11-20T11:59:59.000000Z"}
        self.add("leases", {"name": LEASE, "namespace": SPACE}, spec=lease)
        volumes = {
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        self.add("storageclasses", {"name": "local-path"}, **volumes)
        self.logs: dict[str, list[str]] = {}
        self.log_errors: dict[str, str] = {}
        self.unread: list[Unreadable] = []
        self.differences: list[Difference] = []
        self.absent: list[str] = []
        names, begins, ends = ("*.vdi.example.com",), "2026-11-01T00:00:00Z", "2027-02-01T00:00:00Z"
        self.certificates = [
            Certificate(namespace=SPACE, secret="wildcard", names=names, begins=begins, ends=ends)
        ]
        self.api_certificate_ends = "2027-11-01T00:00:00Z"
        self.api_seconds = 0.012
        self.service_attempt: ServiceAttempt | None = None
        self.scope = Scope(SPACE)
        for number in range(sessions):
            self.add_session(f"alice-{number}", f"alice{number}@example.com")

    def add_session(self, name: str, user: str) -> None:
        """A session that runs, with all that belongs to it."""
        true = {"status": "True", "lastTransitionTime": READY}
        conditions = [
            {"type": kind, "reason": kind, **true} for kind in ("Admitted", "PodReady", "Ready")
        ]
        status: Object = {
            "phase": "Running",
            "url": f"https://{name}.vdi.example.com",
            "podName": name,
        }
        status |= {"startTime": BEGAN, "observedGeneration": 1, "conditions": conditions}
        metadata = meta_of(SPACE, name, generation=1, finalizers=["vdi.kasm.io/session-cleanup"])
        spec = {"user": user, "template": "ubuntu-desktop"}
        session = self.add("vdisessions", metadata, spec=spec, status=status)
        struct = msgspec.convert(session, VDISession)
        desktop = resolve(struct, msgspec.convert(self.one("vditemplates"), VDITemplate), SETTINGS)
        assert isinstance(desktop, Desktop)
        assert desktop.home
        identity = Identity.of(struct)
        pod = build_pod(identity=identity, desktop=desktop)
        pod["metadata"] |= {"uid": f"uid-pod-{name}", "creationTimestamp": BEGAN}
        pod["spec"]["nodeName"] = "node-1"
        pod["status"] = ready_status()
        claim = build_home(identity=identity, home=desktop.home)
        claim["metadata"] |= {"uid": f"uid-home-{name}", "creationTimestamp": BEGAN}
        claim["spec"]["volumeName"] = f"pv-{name}"
        claim["status"] = {"phase": "Bound"}
        self.objects["pods"].append(pod)
        self.objects["persistentvolumeclaims"].append(claim)
        self.objects["persistentvolumes"].append(_volume(f"pv-{name}", "node-1"))
        self.objects["services"].append(build_service(identity=identity))
        route = build_route(identity=identity, host=SETTINGS.host(name), settings=SETTINGS)
        self.objects["ingressroutes"].append(route)
        self.add_slice(SPACE, name, ("http", 8080))

    def add_slice(self, namespace: str, service: str, *ports: tuple[str, int]) -> None:
        """The EndpointSlice of a Service with a pod that is ready."""
        keeper = "endpointslice-controller.k8s.io"
        labels = {
            "kubernetes.io/service-name": service,
            "endpointslice.kubernetes.io/managed-by": keeper,
        }
        numbers = [{"name": name, "port": port} for name, port in ports]
        endpoints = [{"conditions": {"ready": True}}]
        self.add(
            "endpointslices",
            meta_of(namespace, f"{service}-x", labels=labels),
            endpoints=endpoints,
            ports=numbers,
        )

    def one(self, plural: str, name: str = "") -> Object:
        """The first object of a kind, or the one of that name."""
        return next(one for one in self.objects[plural] if name in ("", one["metadata"]["name"]))

    def add(self, plural: str, metadata: Object, **fields: Any) -> Object:
        """One more object."""
        made = {"metadata": metadata, **fields}
        self.objects[plural].append(made)
        return made

    def drop(self, plural: str, name: str = "") -> None:
        """Without it."""
        self.objects[plural].remove(self.one(plural, name))

    @property
    def session(self) -> Object:
        """The first session."""
        return self.one("vdisessions")

    @property
    def template(self) -> Object:
        """The spec of its template."""
        spec: Object = self.one("vditemplates")["spec"]
        return spec

    @property
    def operator_env(self) -> list[Object]:
        """The settings of the operator."""
        operator = self.one("deployments", "vdi-operator")
        env: list[Object] = operator["spec"]["template"]["spec"]["containers"][0]["env"]
        return env

    @property
    def traefik_args(self) -> list[str]:
        """The command line of Traefik."""
        traefik = self.one("deployments", "traefik")
        args: list[str] = traefik["spec"]["template"]["spec"]["containers"][0]["args"]
        return args

    @property
    def pod(self) -> Object:
        """Its pod."""
        return self.one("pods", self.session["metadata"]["name"])

    def without_pod(
        self, reason: str = "", message: str = "", *, phase: str = "Pending", **status: Any
    ) -> None:
        """The first session waits, and its status says why."""
        self.objects["pods"].remove(self.pod)
        conditions = [
            {
                "type": "Admitted",
                "status": "False",
                "reason": reason,
                "message": message,
                "lastTransitionTime": BEGAN,
            }
        ]
        found = {"phase": phase, "message": message, "observedGeneration": 1, **status}
        self.session["status"] = {**found, "conditions": conditions if reason else []}

    def not_ready(
        self,
        *,
        waiting: Object | None = None,
        last: Object | None = None,
        restarts: int = 0,
        **status: Any,
    ) -> None:
        """The first desktop does not get ready."""
        container: Object = {
            "name": "desktop",
            "image": "registry.example.com/desktop:1",
            "restartCount": restarts,
        }
        container |= {
            "state": {"waiting": waiting} if waiting else {"running": {"startedAt": READY}}
        }
        if last:
            container["lastState"] = {"terminated": {"exitCode": 1, **last}}
        conditions = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": BEGAN},
            {"type": "Ready", "status": "False", "lastTransitionTime": BEGAN},
        ]
        base = {"phase": "Pending", "conditions": conditions, "containerStatuses": [container]}
        self.pod["status"] = base | status
        self.session["status"]["phase"] = "Creating"

    def waits(self, reason: str, message: str = "") -> None:
        """The container of the first desktop does not start."""
        self.not_ready(waiting={"reason": reason, "message": message})

    def crashes(self, reason: str = "Error", *, message: str = "", restarts: int = 2) -> None:
        """The first desktop is restarted again and again."""
        last = {"reason": reason, "message": message}
        self.not_ready(waiting={"reason": "CrashLoopBackOff"}, last=last, restarts=restarts)

    def say(self, *lines: str) -> None:
        """The log of the first desktop."""
        self.logs[f"{SPACE}/{self.session['metadata']['name']}"] = [*lines]

    def unscheduled(self, message: str, at: str = BEGAN) -> None:
        """The first desktop is on no node, and the scheduler says why."""
        self.not_ready()
        del self.pod["spec"]["nodeName"]
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "message": message,
            "lastTransitionTime": at,
        }
        self.pod["status"] = {"phase": "Pending", "conditions": [condition]}

    def add_pod(self, name: str, namespace: str = "lab", **metadata: Any) -> Object:
        """One more pod on the node, which is ready."""
        spec = {"nodeName": "node-1", "containers": [{"name": name, "image": "x"}]}
        return self.add(
            "pods", meta_of(namespace, name, **metadata), spec=spec, status=ready_status()
        )

    def warn_pod(self, reason: str, note: str, uid: str = "", at: str = BEGAN) -> None:
        """An Event about the first desktop's pod, or about its pod before with this uid."""
        self.warn("Pod", self.session["metadata"]["name"], reason, note, uid, at)

    def warn(
        self, kind: str, name: str, reason: str, note: str, uid: str = "", at: str = BEGAN
    ) -> None:
        """An Event about the object of that name, or about an earlier one with this uid."""
        event: Object = {
            "metadata": meta_of(SPACE, f"e{len(self.objects['events'])}", creationTimestamp=at)
        }
        found = (one["metadata"] for one in self.objects.get(f"{kind.lower()}s", ()))
        uid = uid or next((one.get("uid", "") for one in found if one["name"] == name), "")
        event["regarding"] = {"kind": kind, "name": name, "uid": uid}
        self.objects["events"].append(event | {"type": "Warning", "reason": reason, "note": note})

    def snapshot(self) -> Snapshot:
        """As it would be collected."""
        return Snapshot(
            taken_at=NOW,
            scope=self.scope,
            objects=Objects(
                **{
                    plural: [convert_object(plural, copy.deepcopy(one)) for one in objects]
                    for plural, objects in self.objects.items()
                }
            ),
            absent=tuple(self.absent),
            unread=tuple(self.unread),
            logs=self.logs,
            log_errors=self.log_errors,
            certificates=tuple(self.certificates),
            differences=tuple(self.differences),
            api_certificate_ends=self.api_certificate_ends,
            api_seconds=self.api_seconds,
            service_attempt=self.service_attempt,
        )

    def findings(self) -> list[Finding]:
        """What the doctor says."""
        return run_checks(self.snapshot())

    def roots(self) -> list[str]:
        """Codes of the causes."""
        return [root.code for root in roots(self.findings())]


def meta_of(namespace: str, name: str, **more: Any) -> Object:
    """The metadata of an object that is an hour old."""
    return {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "creationTimestamp": BEGAN,
        **more,
    }


def ready_status() -> Object:
    """Of a pod that answers."""
    container = {
        "name": "desktop",
        "image": "registry.example.com/desktop:1",
        "ready": True,
        "restartCount": 0,
    }
    return {
        "phase": "Running",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": BEGAN},
            {"type": "Ready", "status": "True", "lastTransitionTime": READY},
        ],
        "containerStatuses": [
            {**container, "state": {"running": {"startedAt": "2026-11-20T11:00:02Z"}}}
        ],
    }


def ready_condition(pod: Object) -> Object:
    """The condition Ready of a pod."""
    found: Object = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")
    return found


def _node(name: str) -> Object:
    room = {"cpu": "64", "memory": "256Gi", "pods": "2000", "nvidia.com/gpu": "8"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": BEGAN}
    disk = {"type": "DiskPressure", "status": "False", "lastTransitionTime": BEGAN}
    status = {"allocatable": room, "capacity": room, "conditions": [ready, disk]}
    status["nodeInfo"] = {"kubeletVersion": "v1.34.4"}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": status,
    }


def _operator() -> Object:
    env = {"VDI_NAMESPACE": SPACE, "VDI_DOMAIN": "vdi.example.com", "VDI_TLS_SECRET": "wildcard"}
    env["HTTPS_PROXY"] = "u:p@x"
    variables = [{"name": name, "value": value} for name, value in env.items()]
    container = {"name": "operator", "image": "localhost/vdi/vdi:dev", "env": variables}
    spec = {"serviceAccountName": "vdi-operator", "containers": [container]}
    return deployment("vdi-operator", "kasm", OPERATOR_LABELS, spec)


def _traefik() -> Object:
    args = ["--entryPoints.web.address=:80", "--entryPoints.websecure.address=:443"]
    container = {"name": "traefik", "image": "docker.io/library/traefik:v3.7", "args": args}
    return deployment("traefik", "kube-system", {"app": "traefik"}, {"containers": [container]})


def deployment(name: str, namespace: str, labels: Object, spec: Object) -> Object:
    """A Deployment of one replica, which answers."""
    return {
        "metadata": meta_of(namespace, name),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
        "status": {"readyReplicas": 1},
    }


def _volume(name: str, node: str) -> Object:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    return {"metadata": {"name": name}, "spec": {"nodeAffinity": affinity}}
