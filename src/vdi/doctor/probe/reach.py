"""Probes of the path to a desktop: from this machine, through the API server, and from a pod like a
session's.

`vdi.doctor.probe.run` calls them. An attempt (`try_way`) never raises for the network; `judge`
makes findings of it.
"""

import asyncio
import base64
import re
import secrets
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from vdi.api.template import Scheme, VDITemplate
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.doctor.checks.cluster import KUBE_PROXY_PODS
from vdi.doctor.codes import CODES, make_finding
from vdi.findings.model import Finding, Remedy
from vdi.http_client import (
    HTTP_ERRORS,
    certificate_error,
    is_unknown_host,
    open_client,
    reason_of,
    unverified,
)
from vdi.kube.clock import Clock
from vdi.kube.errors import Conflict, Forbidden, KubeError, NotFound
from vdi.kube.resource import CLAIMS, ENDPOINT_SLICES, EVENTS, PODS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.session.children import restricted_container, restricted_pod, scheme_of
from vdi.snapshot.dns import DNS_LOG

_SECONDS = 10.0
_STREAM = "/api/websockets"
_UNKNOWN_AUTHORITY = re.compile(r"self.signed certificate|unable to get local issuer")
# Statuses of the gateway without a token, and of Selkies without a password: the upgrade has come
# through.
_LOGIN_REQUIRED = frozenset({401, 403})
_HEALTH_BYTES = 4096
_HEALTH_SECONDS = 5.0
# Time that the pod may take: image, volume, start.
POD_SECONDS = 120.0
_POLL_SECONDS = 1.0
# Some networks accept a connection to any address. So DNS has to respond: to a status request,
# which it refuses. Writes the words of `tries` that are not as they should be; of address, Service
# and name the first, since each needs the one before. Some network plugins need seconds until the
# policies hold for a new pod, and kube-proxy for a new Service: one success is enough, for at most
# 5 seconds.
_SCRIPT = """\
python='
import socket, sys
stream = socket.create_connection(sys.argv[2:4], 1)
if sys.argv[1] != "denied":
    stream.sendall(b"\\0\\21\\0\\1\\20\\0\\0\\1\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\1")
    sys.exit(stream.recv(4)[2:] != b"\\0\\1")
'
bash='
exec 3<> "/dev/tcp/$1/$2" || exit 1
[ "$0" = denied ] && exit 0
printf "\\0\\21\\0\\1\\20\\0\\0\\1\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\1" >&3
[ "$(head -c 4 <&3 | tail -c 2 | od -A n -t u1 | tr -d " ")" = 01 ]
'
echo written > /probe/file || { echo "the volume cannot be written to by user $(id -u)"; exit 1; }
connects() {
    if [ -z "$3" ]; then
        timeout 2 getent hosts "$2"
    elif command -v python3; then
        python3 -c "$python" "$@"
    elif command -v bash; then
        timeout 1 bash -c "$bash" "$@"
    else
        exit 0
    fi > /dev/null 2>&1
}
tries() {
    if grep -qsE 'endpoint|service' /dev/termination-log; then return; fi
    end=$(($(date +%s) + 3))
    while
        if connects "$@"; then result=reached; else result=denied; fi
        case "$1:$result" in denied:denied | name:reached | endpoint:reached | service:reached) return ;; esac
        [ "$(date +%s)" -lt $end ]
    do
        sleep 0.5
    done
    echo "$1" >> /dev/termination-log
}
"""
# After the others, which explain it.
_TRY_NAME = "if command -v getent > /dev/null; then tries name kubernetes.default.svc; fi\n"
_DNS_PORT = 53
# By the word of the script: problem, remedy, and its command.
_LAYERS = {
    "endpoint": (
        (
            "does not reach the cluster's DNS, not even by its pod's address: a policy or the"
            " network plugin stops it"
        ),
        "Allow DNS in the policies, or repair the network plugin of that node.",
        "kubectl get networkpolicies --all-namespaces",
    ),
    "service": (
        (
            "reaches the cluster's DNS by its pod's address, but not by a new Service's: its"
            " kube-proxy does not work"
        ),
        CODES["kube_proxy_down"].remedy,
        KUBE_PROXY_PODS,
    ),
    "name": (
        "finds no name, though it reaches addresses: the cluster's DNS does not respond correctly",
        "Read the log of the cluster's DNS.",
        DNS_LOG,
    ),
}
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A running session, as findings name it, and its address."""

    session: str
    url: str
    related_objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of an attempt. Empty texts and 0: that step was not reached, or has no problem."""

    # `name` or `connection`: the step that failed.
    problem: str = ""
    words: str = ""
    # Why the certificate is refused.
    certificate: str = ""
    status: int = 0
    # 101, or the status with which the WebSocket is refused.
    websocket: int = 0


async def try_way(url: str) -> Seen:
    """The page and the WebSocket of a desktop, requested as a browser does. Never raises for
    network errors.
    """
    certificate = ""
    try:
        try:
            status, websocket = await _request(url, None)
        except HTTP_ERRORS as error:
            untrusted = certificate_error(error)
            if untrusted is None:
                raise
            certificate = str(untrusted)
            # Behind a certificate that is refused, the rest of the path may be broken as well.
            status, websocket = await _request(url, unverified())
        return Seen(certificate=certificate, status=status, websocket=websocket)
    except HTTP_ERRORS as error:
        return Seen(
            "name" if is_unknown_host(error) else "connection",
            reason_of(error),
            certificate=certificate,
        )


async def _request(url: str, tls: ssl.SSLContext | None) -> tuple[int, int]:
    """Status of the page, and of the WebSocket's handshake (RFC 6455, 4.1)."""
    origin = url.rstrip("/")
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    async with asyncio.timeout(_SECONDS), open_client(url, seconds=_SECONDS, tls=tls) as client:
        async with client.stream("GET", url) as page:
            pass
        async with client.stream(
            "GET", origin + _STREAM, headers={**upgrade, "Origin": origin}
        ) as handshake:
            return page.status, handshake.status


def judge(target: Target, seen: Seen) -> Iterator[Finding]:
    """Findings of an attempt: the first step that failed, and a certificate that is refused."""
    parts, curl = urlsplit(target.url), f"curl -vk {target.url}"
    host = parts.hostname or target.url

    def finding(code: str, message: str, command: str) -> Finding:
        return make_finding(
            code,
            target.session,
            message,
            evidence=[f"tried: {target.url}"],
            remedy=Remedy.run(command),
            related_objects=target.related_objects,
        )

    if seen.problem == "name":
        yield finding("probe_name_not_found", f"{host}: {seen.words}.", f"dig {host}")
        return
    if seen.problem:
        yield finding(
            "probe_unreachable", f"{target.url} does not respond: {seen.words.rstrip('.')}.", curl
        )
        return
    # A cluster on this machine has an authority of its own, which no one is meant to trust for
    # longer.
    of_this_machine = host.endswith(".localhost") and _UNKNOWN_AUTHORITY.search(seen.certificate)
    if seen.certificate and not of_this_machine:
        message = f"The certificate at {host} is not trusted here: {seen.certificate.rstrip('.')}."
        command = f"openssl s_client -connect {parts.hostname}:{parts.port or 443}"
        yield finding("probe_certificate_refused", message, command)
    if seen.status == 404 or seen.status >= 500:
        why = ": Traefik has no route for it" if seen.status == 404 else ""
        yield finding("probe_bad_answer", f"{host} responds with {seen.status}{why}.", curl)
    elif seen.websocket != 101 and seen.websocket not in _LOGIN_REQUIRED:
        message = (
            f"{host} responds with {seen.status}, but its WebSocket {seen.websocket}: a proxy drops"
            " the upgrade."
        )
        yield finding("probe_websocket_refused", message, f"{curl}{_STREAM}")


async def probe_here(targets: list[Target]) -> list[Finding]:
    """Attempts from this machine, all at the same time."""
    seen = await asyncio.gather(*(try_way(target.url) for target in targets))
    return [
        finding for target, one in zip(targets, seen, strict=True) for finding in judge(target, one)
    ]


async def probe_health(
    client: Client, session: str, pod: Pod, port: int, path: str
) -> list[Finding]:
    """The health page of a ready desktop, through the API server. Raises Forbidden without
    `pods/proxy`.
    """
    where, name = pod.metadata.namespace, pod.metadata.name
    target = name if scheme_of(pod) is Scheme.HTTP else f"https:{name}"
    try:
        await client.page_of_pod(
            where, target, port, path, most_bytes=_HEALTH_BYTES, seconds=_HEALTH_SECONDS
        )
    except Forbidden:
        raise
    except KubeError as error:
        return [
            make_finding(
                "probe_desktop_silent",
                session,
                f"Its pod {name} counts as ready, but {path} on port {port} does not respond:"
                f" {error}.",
                evidence=[f"GET pods/{target}:{port}/proxy{path}"],
                remedy=Remedy.run(f"kubectl --namespace {where} logs {name}"),
                related_objects=[f"pod/{where}/{name}"],
            )
        ]
    return []


class DeniedPort(NamedTuple):
    """A listening port of a pod that the NetworkPolicies deny to desktops. `object`: its owner, as
    findings name it.
    """

    object: str
    namespace: str
    pod: str
    port: int
    policies: tuple[str, ...]
    remedy: Remedy


def build_probe(
    namespace: str,
    name: str,
    template: VDITemplate,
    tried: Mapping[str, tuple[str, int]] | None = None,
) -> list[tuple[Resource, Object]]:
    """A pod of the template's image with the rights and labels of a desktop, and a claim of its
    storage class.

    Without homes in the template there is no claim: the pod writes to the node's disk, as its
    desktops do. `tried`: address and port by word (`denied`, `endpoint`, `service`).
    """
    # Network policies select a desktop by these labels. Without an owner the operator ignores the
    # pod.
    meta = {
        "name": name,
        "namespace": namespace,
        "labels": {"app.kubernetes.io/managed-by": "vdi-operator"},
    }
    spec = template.spec
    attempts = (f"tries {word} {host} {port}\n" for word, (host, port) in (tried or {}).items())
    script = "".join([_SCRIPT, *attempts, _TRY_NAME])
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta,
        "spec": {
            "accessModes": [spec.persistence.access_mode.value],
            "storageClassName": spec.persistence.storage_class,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    claimed = {"persistentVolumeClaim": {"claimName": name}}
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": int(POD_SECONDS),
            "nodeSelector": dict(spec.placement.node_selector),
            "tolerations": [
                msgspec.to_builtins(toleration) for toleration in spec.placement.tolerations
            ],
            "imagePullSecrets": [msgspec.to_builtins(secret) for secret in spec.image_pull_secrets],
            **restricted_pod(spec.user_id, owns_volumes=True),
            "containers": [
                {
                    "name": "desktop",
                    "image": spec.image,
                    "command": ["sh", "-c", script],
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": restricted_container(),
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                        "limits": {"cpu": "500m", "memory": "64Mi"},
                    },
                    "volumeMounts": [{"name": "probe", "mountPath": "/probe"}],
                }
            ],
            "volumes": [
                {"name": "probe", **(claimed if spec.persistence.enabled else {"emptyDir": {}})}
            ],
        },
    }
    return [*([(CLAIMS, claim)] if spec.persistence.enabled else []), (PODS, pod)]


async def probe_pod(
    client: Client, namespace: str, template: VDITemplate, clock: Clock, denied: DeniedPort | None
) -> list[Finding]:
    """Creates the pod, waits for its end, and removes it, also when interrupted. Raises ApiError
    without the rights.
    """
    name = f"vdi-probe-{secrets.token_hex(3)}"
    address = await _address_of(client, denied) if denied else ""
    if denied and address:
        tried = {"denied": (address, denied.port)}
    else:
        tried = {}
    setup = asyncio.create_task(_create(client, namespace, name, template, tried))
    try:
        await asyncio.shield(setup)
        pod, failure, wrong = await _wait(client, namespace, name, clock)
    finally:
        # Also after Ctrl-C: what stays would be found by no one. A request under way still creates
        # its object.
        await asyncio.shield(_remove(client, namespace, name, setup))
    if not failure:
        if denied and "denied" in wrong:
            findings = [_not_enforced(namespace, denied, address)]
        else:
            findings = []
        return [*findings, *judge_network(pod.spec.node_name, namespace, wrong)]
    storage = template.spec.persistence
    volume = ", with a new volume," if storage.enabled else ""
    events = (
        f"kubectl get events --namespace {namespace} --field-selector involvedObject.name={name}"
    )
    return [
        make_finding(
            "probe_pod_failed",
            f"vditemplate/{template.metadata.name}",
            f"A pod of its image{volume} failed at a step of a desktop's start:"
            f" {failure.rstrip('.')}.",
            evidence=[
                f"image {template.spec.image}",
                f"storage class {storage.storage_class}" if volume else "",
            ],
            remedy=Remedy.run(events),
            related_objects=[f"namespace/{namespace}"],
        )
    ]


async def _create(
    client: Client,
    namespace: str,
    name: str,
    template: VDITemplate,
    tried: Mapping[str, tuple[str, int]],
) -> None:
    tried = {**tried, **await _try_dns(client, namespace, name)}
    for kind, body in build_probe(namespace, name, template, tried):
        await client.create(kind, body, namespace=namespace, into=msgspec.Raw)


async def _address_of(client: Client, denied: DeniedPort) -> str:
    """The pod's address, which snapshots do not contain because people send them to others."""
    try:
        pod = await client.get(PODS, denied.pod, namespace=denied.namespace, into=Pod)
    except NotFound:
        return ""
    return pod.status.pod_ip


# DNS is the one server that every desktop may reach. Its own Service may still work by rules that a
# stopped kube-proxy has left behind: a new Service shows whether one works.
async def _try_dns(client: Client, namespace: str, name: str) -> dict[str, tuple[str, int]]:
    """Addresses of a DNS pod and of a new Service that leads to it; empty without such a pod."""
    pods = await client.list(PODS, label_selector="k8s-app=kube-dns", into=Pod)
    address = next((pod.status.pod_ip for pod in pods if pod.ready and pod.status.pod_ip), "")
    if not address:
        return {}
    port: Object = {"name": "dns", "port": _DNS_PORT, "protocol": "TCP"}
    meta: Object = {"name": name, "namespace": namespace}
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"ports": [port]},
    }
    created = await client.create(SERVICES, service, namespace=namespace, into=Object)
    endpoints = {"addresses": [address], "conditions": {"ready": True}}
    meta |= {"labels": {"kubernetes.io/service-name": name}}
    slice_of_it: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "ports": [port],
    }
    slice_of_it |= {"addressType": "IPv6" if ":" in address else "IPv4", "endpoints": [endpoints]}
    await client.create(ENDPOINT_SLICES, slice_of_it, namespace=namespace, into=msgspec.Raw)
    return {"endpoint": (address, _DNS_PORT), "service": (created["spec"]["clusterIP"], _DNS_PORT)}


def judge_network(node: str, namespace: str, wrong: Collection[str]) -> Iterator[Finding]:
    """One finding about the first of address, Service and name that does not lead to the cluster's
    DNS.
    """
    failed = [word for word in _LAYERS if word in wrong]
    if failed:
        problem, sentence, command = _LAYERS[failed[0]]
        yield make_finding(
            "probe_network_broken",
            f"namespace/{namespace}",
            f"A pod with a desktop's labels on node {node} {problem}.",
            evidence=[f"tried from node/{node}; not reached: {', '.join(failed)}"],
            remedy=Remedy(sentence, (command,)),
            related_objects=[f"node/{node}"],
        )


def _not_enforced(namespace: str, denied: DeniedPort, address: str) -> Finding:
    return make_finding(
        "network_policy_not_enforced",
        f"namespace/{namespace}",
        "This cluster does not enforce NetworkPolicies: a pod with a desktop's labels connected to"
        f" port {denied.port} of {denied.object}, which {denied.policies[0]} denies. Every desktop"
        " reaches every other one.",
        evidence=[
            f"connected: {address}:{denied.port}",
            f"denied by: {', '.join(denied.policies)}",
        ],
        remedy=denied.remedy,
    )


async def _wait(
    client: Client, namespace: str, name: str, clock: Clock
) -> tuple[Pod, str, list[str]]:
    """The pod as it ended, its failure (empty: it succeeded), and the words of its script."""
    deadline = clock.monotonic() + POD_SECONDS
    while True:
        pod = await client.get(PODS, name, namespace=namespace, into=Pod)
        ended = pod.desktop.state.terminated if pod.desktop else None
        output = ended.message.strip() if ended else ""
        if pod.status.phase == "Succeeded":
            return pod, "", output.split()
        if pod.status.phase == "Failed":
            return pod, output or pod.status.message or "it failed without a message", []
        if clock.monotonic() > deadline:
            return pod, await _why_waiting(client, pod), []
        await clock.sleep(_POLL_SECONDS)


async def _why_waiting(client: Client, pod: Pod) -> str:
    namespace, name = pod.metadata.namespace, pod.metadata.name
    claims = await client.list(
        CLAIMS,
        namespace=namespace,
        field_selector=f"metadata.name={name}",
        into=PersistentVolumeClaim,
    )
    events = await client.list(
        EVENTS,
        namespace=namespace,
        field_selector=f"type=Warning,regarding.name={name}",
        into=Event,
    )
    explanation = explain(StartState(pod, next(iter(claims), None), tuple(events), None)).sentence
    return f"it has not ended within {POD_SECONDS:g} s. {explanation}"


async def _remove(client: Client, namespace: str, name: str, setup: "asyncio.Task[None]") -> None:
    """Remove all that the setup has created, when it has ended. Raises the error of a removal after
    the others.
    """
    await asyncio.gather(setup, return_exceptions=True)
    failed: list[KubeError] = []
    for kind in (PODS, CLAIMS, SERVICES, ENDPOINT_SLICES):
        try:
            await client.delete(kind, name, namespace=namespace, grace_seconds=0, into=msgspec.Raw)
        except (NotFound, Conflict):
            continue
        except KubeError as error:
            failed.append(error)
    if failed:
        raise failed[0]
