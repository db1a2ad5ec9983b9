"""Objects that other objects name: Secrets, ConfigMaps, TLS certificates and logs. Pure.

`collect` reads them after the lists; checks interpret them by the same functions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vdi.api.template import Scheme, VDITemplate
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time
from vdi.diagnosis.snapshot import Certificate, Snapshot
from vdi.doctor.objects.components import find_operators, gateways_in_scope, operator_for, pods_of, sick_pods
from vdi.doctor.objects.sessions import diagnose_sessions
from vdi.gpu.sharing.state import ClusterPolicy, GpuState, active_policies, in_use, locate, observe
from vdi.kube import certificate
from vdi.session.naming import assigned_namespace, route_name


def namespaces_of_template(snapshot: Snapshot, template: VDITemplate) -> list[str]:
    """Namespaces in scope with a gateway, where desktops of this template may run."""

    return sorted(
        {
            namespace
            for operator in find_operators(snapshot)
            if operator.settings.edge_middleware is not None and assigned_namespace(template.metadata, operator.watches)
            for namespace in operator.watches
            if snapshot.scope.namespace in ("", namespace)
        }
    )


def secrets_to_sign_in(snapshot: Snapshot) -> dict[tuple[str, str], list[VDITemplate]]:
    """The Secrets that templates name in `basicAuthSecret`: templates by namespace and name."""
    found: dict[tuple[str, str], list[VDITemplate]] = {}
    for template in snapshot.templates.values():
        if template.spec.basic_auth_secret:
            for namespace in namespaces_of_template(snapshot, template):
                found.setdefault((namespace, template.spec.basic_auth_secret.name), []).append(template)
    return dict(sorted(found.items()))


def templates_with_tls(snapshot: Snapshot) -> dict[str, list[VDITemplate]]:
    """The templates whose images speak TLS, by namespace."""
    found: dict[str, list[VDITemplate]] = {}
    for template in snapshot.templates.values():
        if template.spec.scheme is Scheme.HTTPS:
            for namespace in namespaces_of_template(snapshot, template):
                found.setdefault(namespace, []).append(template)
    return dict(sorted(found.items()))


# Its ConfigMap, beside its Deployment.
LOCAL_PATH_CONFIG = "local-path-config"
_LOCAL_PATH_DEPLOYMENT = "local-path-provisioner"
# A mode that is given to the volume's own folder. That of its parent (`$VOL_DIR/..`) may well be 0700.
_MODE = re.compile(
    r"(?P<command>\bmkdir\b[^\n]*?-m\s*|\bchmod\s+(?:-R\s+)?)(?P<mode>0?[0-7]{3})"
    r"(?=\s[^\n]*\$\{?(?:VOL_DIR|absolutePath)\}?[\"']?\s*$)",
    re.MULTILINE,
)


def local_path_namespaces(objects: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Where the provisioner runs."""
    found = (deployment["metadata"] for deployment in objects.get("deployments", ()))
    return sorted({meta["namespace"] for meta in found if meta["name"] == _LOCAL_PATH_DEPLOYMENT})


def read_closed_modes(script: str) -> list[str]:
    """Modes with which a desktop's user, or a database's, cannot write to a new volume."""
    return [match["mode"] for match in _MODE.finditer(script) if _is_closed(match["mode"])]


def open_modes(script: str) -> str:
    """The script with the mode of K3s, 0777, in the place of those."""
    return _MODE.sub(lambda match: match["command"] + ("0777" if _is_closed(match["mode"]) else match["mode"]), script)


def _is_closed(mode: str) -> bool:
    """fsGroup has no effect on hostPath volumes: what others may is what a container may that does not run as root."""
    return not mode.endswith("7")


Object = dict[str, Any]


def gpu_config_maps(objects: dict[str, list[Object]], usual: str) -> list[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that may decide how GPUs are shared; none on a cluster without GPUs."""
    bare = locate(_cluster_policy(objects), objects.get("daemonsets", ()))
    if not bare.plugins and bare.policy is None:
        return []
    return [(bare.namespace, name) for name in sorted({bare.config_name, usual} - {""})]


def observe_gpus(snapshot: Snapshot) -> GpuState:
    """GPUs, device plugin and configuration at the time of the snapshot."""
    pods = [pod for pod in snapshot.raw("pods") if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    sets = snapshot.raw("daemonsets")
    return observe(
        locate(_cluster_policy(snapshot.objects), sets, pods),
        nodes=snapshot.raw("nodes"),
        used=in_use(pods),
        daemon_sets=sets,
        pods=pods,
        config_maps=snapshot.raw("configmaps"),
        runtime_class=snapshot.find("runtimeclasses", "nvidia") is not None,
    )


def _cluster_policy(objects: dict[str, list[Object]]) -> ClusterPolicy | None:
    return next(iter(active_policies(objects.get("clusterpolicies", ()))), None)


def read_certificate(namespace: str, secret: str, pem: bytes) -> Certificate:
    """The certificate of this Secret, with times as text: a snapshot is a file too."""
    found = certificate.read_certificate(pem)
    return Certificate(
        namespace=namespace,
        secret=secret,
        names=found.names,
        begins=format_time(found.begins) if found.begins else "",
        ends=format_time(found.ends) if found.ends else "",
        problem=found.problem,
    )


def hosts_by_certificate(snapshot: Snapshot) -> dict[tuple[str, str], list[str]]:
    """The hosts of desktops and portal, by namespace and name of the TLS Secret that Traefik serves them with.

    A desktop whose route names no Secret has the portal's: Traefik presents a certificate for every host it covers.
    """
    found: dict[tuple[str, str], set[str]] = {}
    others: list[tuple[str, str]] = []
    for diagnosis in diagnose_sessions(snapshot):
        route = snapshot.find("ingressroutes", route_name(diagnosis.session.metadata.name), diagnosis.namespace)
        name = ((route or {}).get("spec") or {}).get("tls", {}).get("secretName")
        if name and diagnosis.host:
            found.setdefault((diagnosis.namespace, name), set()).add(diagnosis.host)
        elif route and diagnosis.host:
            others.append((diagnosis.namespace, diagnosis.host))
    for gateway in gateways_in_scope(snapshot):
        operator = operator_for(snapshot, gateway.watches[0])
        if operator and operator.settings.tls_secret:
            key = (gateway.namespace, operator.settings.tls_secret)
            hosts = found.setdefault(key, set())
            hosts.add(operator.settings.host("portal"))
            hosts |= {host for namespace, host in others if namespace in gateway.watches}
    return {key: sorted(hosts) for key, hosts in sorted(found.items())}


# Seconds after which a desktop that is not ready is worth a look.
_NOT_READY_SECONDS = 45.0


def pods_to_log(snapshot: Snapshot, most: int) -> list[tuple[str, str]]:
    """Namespace and name, the worst first.

    Missing libraries and wrong settings come with image and template, so of the desktops that are ready the newest of
    each template is enough, unless one session was asked about.
    """
    chosen = [pod for operator in find_operators(snapshot) for pod in sick_pods(snapshot, operator)]
    chosen += [pod for gateway in gateways_in_scope(snapshot) for pod in pods_of(snapshot, gateway)]
    chosen += _volume_helpers(snapshot)
    ready: dict[str, Pod] = {}
    for session in snapshot.sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, ()):
            started = pod.desktop is not None and (pod.desktop.state.running or pod.desktop.restart_count)
            if pod.ready:
                known = ready.get(session.spec.template)
                if known is None or known.metadata.creation_timestamp < pod.metadata.creation_timestamp:
                    ready[session.spec.template] = pod
            elif started and (restarted(pod) or snapshot.age(pod.metadata.creation_timestamp) > _NOT_READY_SECONDS):
                chosen.append(pod)
    keys = [(pod.metadata.namespace, pod.metadata.name) for pod in [*chosen, *ready.values()]]
    return list(dict.fromkeys(keys))[:most]


def restarted(pod: Pod) -> bool:
    """Whether its desktop has ended before."""
    return pod.desktop is not None and pod.desktop.restart_count > 0


def _volume_helpers(snapshot: Snapshot) -> list[Pod]:
    """Pods by which local-path makes and removes folders, when one has failed."""
    return [
        pod for pod in snapshot.pods if pod.metadata.name.startswith("helper-pod-") and pod.status.phase == "Failed"
    ]
