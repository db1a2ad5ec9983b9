"""Objects that other objects name: Secrets, ConfigMaps, TLS certificates and logs. Pure.

`collect` reads them after the lists; checks interpret them by the same functions.
"""

import re
from collections.abc import Iterator

from vdi.api.template import VDITemplate
from vdi.doctor.objects.components import Gateway, find_operators, gateways_in_scope, operator_for
from vdi.doctor.objects.routing import is_of_release, route_rules, routes_to
from vdi.doctor.objects.sessions import diagnose_sessions
from vdi.gpu.sharing.state import DEFAULT_NAME, GpuState, observe
from vdi.session.naming import assigned_namespace, route_name
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.objects.network import IngressRoute, Service
from vdi.snapshot.objects.workloads import Pod

_LOCAL_PATH_DEPLOYMENT = "local-path-provisioner"
# A mode that its script gives to the volume's own folder. That of the parent (`$VOL_DIR/..`) may
# well be 0700.
_MODE = re.compile(
    r"(?P<command>\bmkdir\b[^\n]*?-m\s*|\bchmod\s+(?:-R\s+)?)(?P<mode>0?[0-7]{3})"
    r"(?=\s[^\n]*\$\{?(?:VOL_DIR|absolutePath)\}?[\"']?\s*$)",
    re.MULTILINE,
)
# Age at which the log of a desktop that is not ready is read.
_NOT_READY_SECONDS = 45.0
# Time in which kube-proxy takes up the endpoint of a pod that is ready.
_PROXY_SECONDS = 30.0


def _namespaces_of(snapshot: Snapshot, template: VDITemplate) -> list[str]:
    """Namespaces in scope with a gateway, where desktops of this template may run."""
    namespaces = set()
    for operator in find_operators(snapshot):
        if operator.settings.edge_middleware is not None and assigned_namespace(
            template.metadata, operator.watches
        ):
            for namespace in operator.watches:
                if snapshot.scope.namespace in ("", namespace):
                    namespaces.add(namespace)
    return sorted(namespaces)


def secrets_to_sign_in(snapshot: Snapshot) -> dict[tuple[str, str], list[VDITemplate]]:
    """Namespace and name of each Secret in `basicAuthSecret` -> the templates that name it."""
    secrets: dict[tuple[str, str], list[VDITemplate]] = {}
    for template in snapshot.templates.values():
        if template.spec.basic_auth_secret:
            for namespace in _namespaces_of(snapshot, template):
                secrets.setdefault((namespace, template.spec.basic_auth_secret.name), []).append(
                    template
                )
    return dict(sorted(secrets.items()))


def local_path_namespaces(snapshot: Snapshot) -> list[str]:
    metas = (deployment.metadata for deployment in snapshot.objects.deployments)
    return sorted({meta.namespace for meta in metas if meta.name == _LOCAL_PATH_DEPLOYMENT})


def read_closed_modes(script: str) -> list[str]:
    """Modes in the provisioner's script with which a desktop's user, or a database's, cannot write
    to a new volume.
    """
    return [match["mode"] for match in _MODE.finditer(script) if _is_closed(match["mode"])]


def open_modes(script: str) -> str:
    """The script with 0777, the mode of K3s, in place of those."""
    return _MODE.sub(
        lambda match: match["command"] + ("0777" if _is_closed(match["mode"]) else match["mode"]),
        script,
    )


def _is_closed(mode: str) -> bool:
    # fsGroup has no effect on hostPath volumes: a container that does not run as root has the
    # rights of others.
    return not mode.endswith("7")


def gpu_config_maps(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that may configure GPU sharing; empty on a cluster
    without GPUs.
    """
    located = observe_gpus(snapshot)
    if not located.plugins and located.policy is None:
        return []
    return [
        (located.namespace, name) for name in sorted({located.config_name, DEFAULT_NAME} - {""})
    ]


@once
def observe_gpus(snapshot: Snapshot) -> GpuState:
    """GPUs, device plugin and configuration, as `vdi gpu verify` would see them."""
    return observe(snapshot.objects)


def hosts_by_certificate(snapshot: Snapshot) -> dict[tuple[str, str], list[str]]:
    """Namespace and name of each TLS Secret -> hosts of desktops and portal that Traefik serves
    with it.

    A desktop whose route names no Secret has the portal's: Traefik presents a certificate for every
    host it covers.
    """
    hosts_of: dict[tuple[str, str], set[str]] = {}
    others: list[tuple[str, str]] = []
    for diagnosis in diagnose_sessions(snapshot):
        route: IngressRoute | None = snapshot.find(
            "ingressroutes", route_name(diagnosis.name), diagnosis.namespace
        )
        name = route.spec.tls.secret_name if route and route.spec.tls else ""
        if name and diagnosis.host:
            hosts_of.setdefault((diagnosis.namespace, name), set()).add(diagnosis.host)
        elif route and diagnosis.host:
            others.append((diagnosis.namespace, diagnosis.host))
    for gateway in gateways_in_scope(snapshot):
        for name, host in _portal_hosts(snapshot, gateway):
            hosts_of.setdefault((gateway.namespace, name), set()).add(host)
        operator = operator_for(snapshot, gateway.watches[0])
        if operator and operator.settings.tls_secret:
            served = hosts_of.setdefault((gateway.namespace, operator.settings.tls_secret), set())
            served.add(operator.settings.host("portal"))
            served |= {host for namespace, host in others if namespace in gateway.watches}
    return {key: sorted(hosts) for key, hosts in sorted(hosts_of.items())}


def _portal_hosts(snapshot: Snapshot, gateway: Gateway) -> Iterator[tuple[str, str]]:
    """Secret and host of each route to the gateway with a certificate of its own."""
    for route in routes_to(snapshot, gateway.namespace, gateway.name):
        if route.spec.tls and route.spec.tls.secret_name:
            for rule in route_rules(route):
                for host in rule.hosts:
                    yield route.spec.tls.secret_name, host


def service_to_try(snapshot: Snapshot) -> Service | None:
    """Of the Services with an address of ours and of the cluster's DNS, the one whose pod became
    ready last: rules for older pods outlive a kube-proxy that stops. Desktops have headless ones.
    """
    latest, chosen = "", None
    for service in snapshot.objects.services:
        labels, spec = service.metadata.labels, service.spec
        is_known = labels.get("k8s-app") == "kube-dns" or is_of_release(labels)
        has_address = spec.ports and spec.cluster_ip not in ("", "None")
        if not (is_known and has_address and spec.selector):
            continue
        for pod in snapshot.pods:
            if pod.metadata.namespace != service.metadata.namespace or not pod.ready:
                continue
            ready = pod.condition("Ready")
            if ready and spec.selector.items() <= pod.metadata.labels.items():
                time = ready.last_transition_time
                if time > latest and snapshot.age(time) >= _PROXY_SECONDS:
                    latest, chosen = time, service
    return chosen


def pods_to_log(snapshot: Snapshot, most: int) -> list[tuple[str, str]]:
    """Namespace and name of the pods whose log is worth a request, the worst first.

    Missing libraries and wrong settings come with image and template. So of the desktops that are
    ready, the newest of each template is enough, unless one session was requested.
    """
    chosen: list[Pod] = []
    for operator in find_operators(snapshot):
        chosen += [pod for pod in operator.pods(snapshot) if pod.status.phase == "Running"]
    for gateway in gateways_in_scope(snapshot):
        chosen += gateway.pods(snapshot)
    # Pods by which local-path makes and removes folders, when one has failed.
    for pod in snapshot.pods:
        if pod.metadata.name.startswith("helper-pod-") and pod.status.phase == "Failed":
            chosen.append(pod)
    newest: dict[str, Pod] = {}
    for session in snapshot.sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, ()):
            known = newest.get(session.spec.template, pod)
            if not pod.ready and _is_troubled(snapshot, pod):
                chosen.append(pod)
            elif pod.ready and known.metadata.creation_timestamp <= pod.metadata.creation_timestamp:
                newest[session.spec.template] = pod
    keys = [(pod.metadata.namespace, pod.metadata.name) for pod in [*chosen, *newest.values()]]
    return list(dict.fromkeys(keys))[:most]


def _is_troubled(snapshot: Snapshot, pod: Pod) -> bool:
    """Whether a desktop that is not ready has restarted, or has been running for long."""
    if pod.desktop is None:
        return False
    is_old = snapshot.age(pod.metadata.creation_timestamp) > _NOT_READY_SECONDS
    return pod.desktop.restart_count > 0 or (is_old and pod.desktop.state.running is not None)
