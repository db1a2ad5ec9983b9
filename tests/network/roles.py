"""Roles of the matrix: the pods of a rendered chart with their labels and ports, all others, and
addresses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.builders import a_session, a_template
from vdi.api.template import VDITemplate
from vdi.session.children import build_pod, build_pool_pod
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Desktop, resolve
from vdi.session.naming import Identity, PoolIdentity
from vdi.session.prepull import build_puller
from vdi.session.template_image import WEBRTC_PORT

Object = dict[str, Any]
# Address of the node with the API server; coturn's node is the next one.
NODE = "192.168.1.10"
TEMPLATE = "ubuntu-desktop"
# Of workloads that are not called as they are without "vdi-".
_NAMES = {"vdi-postgresql": "PostgreSQL", "vdi-redis": "Redis"}
# One of each network that is no internet; among them the metadata addresses of clouds that have one
# of their own.
PRIVATE = (
    "0.1.2.3", "10.1.2.3", "100.100.100.200", "127.0.0.53", "168.63.129.16", "169.254.1.1", "172.20.0.1",
    "192.0.0.192", "192.168.7.7", "198.19.0.1", "239.1.1.1", "255.255.255.255",
    "::1", "64:ff9b::a00:1", "64:ff9b:1::1", "fd00:ec2::254", "fe80::1", "ff02::1",
)  # fmt: skip
INTERNET = ("1.1.1.1", "198.51.99.1", "223.255.255.1", "2606:4700:4700::1111")


@dataclass(frozen=True)
class Port:
    """A port; `name` is its name in the pod."""

    number: int
    protocol: str = "TCP"
    name: str = ""

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


@dataclass(frozen=True)
class Role:
    """Somebody of whom it is asked what they may: a pod, or (without a namespace) what is outside
    the cluster.
    """

    # As in the table; several roles may share one, and then the same must hold for each of them.
    name: str
    ip: str
    ports: tuple[Port, ...]
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    # Whether the chart decides what it may do.
    is_ours: bool = False
    sends: bool = True

    def as_json(self) -> Object:
        return {
            "ip": self.ip,
            "namespace": self.namespace,
            "namespaceLabels": (
                {"kubernetes.io/metadata.name": self.namespace} if self.namespace else {}
            ),
            "labels": dict(self.labels),
        }


@dataclass(frozen=True)
class Question:
    """May `source` connect to this port of `target`?"""

    source: Role
    target: Role
    port: Port

    @property
    def row(self) -> str:
        """The table's row that answers it."""
        return f"{self.target.name} {self.port}"

    def as_json(self) -> Object:
        return {
            "from": self.source.as_json(),
            "to": self.target.as_json(),
            "port": self.port.number,
            "portName": self.port.name,
            "protocol": self.port.protocol,
        }


def questions(roles: list[Role]) -> Iterator[Question]:
    """All pairs of roles, all ports: but for what no policy of ours can decide, and what a pod says
    to itself.
    """
    for source in roles:
        for target in roles:
            if source.sends and source is not target and (source.is_ours or target.is_ours):
                yield from (Question(source, target, port) for port in target.ports)


def roles_of(
    rendered: list[Object],
    *,
    namespace: str = "vdi-sessions",
    template: str = TEMPLATE,
    **addresses: str,
) -> list[Role]:
    """Everybody, where this chart is installed. `template`: of Alice's desktop; `addresses`: more,
    `IP PORT...`.
    """
    split = {name: given.split() for name, given in addresses.items()}
    more = [
        Role(name, ip, tuple(Port(int(port)) for port in ports), sends=False)
        for name, (ip, *ports) in split.items()
    ]
    return [
        *_desktops(namespace, template),
        *_workloads(rendered),
        *_others(namespace),
        *_addresses(),
        *more,
    ]


# The one that a desktop streams from over WebRTC, and another that no relay may reach.
WEBRTC = (Port(WEBRTC_PORT, "UDP"), Port(50000, "UDP"))


def _desktops(namespace: str, template: str) -> Iterator[Role]:
    desktop = resolve(a_session(), a_template(), ClusterSettings())
    assert isinstance(desktop, Desktop)
    alices = Identity(namespace, "alice-desktop", "uid-a", "alice@example.com", template)
    bobs = Identity(namespace, "bob-desktop", "uid-b", "bob@example.com", TEMPLATE)
    waiting = PoolIdentity(namespace, "warm", "uid-p", TEMPLATE)
    made = [
        build_pod(identity=alices, desktop=desktop),
        build_pod(identity=bobs, desktop=desktop),
        build_pool_pod(identity=waiting, name="warm-abc", desktop=desktop, annotations={}),
    ]
    names = ["desktop" if template == TEMPLATE else f"desktop of {template}", "desktop", "desktop"]
    for number, (name, pod) in enumerate(zip(names, made, strict=True)):
        yield _pod(name, f"10.42.0.{20 + number}", pod["metadata"], pod["spec"], Port(22), *WEBRTC)
    fetcher: VDITemplate = a_template()
    pod = build_puller(fetcher, "node-1", namespace)
    yield _pod("image fetcher", "10.42.0.29", pod["metadata"], pod["spec"], Port(8080, name="http"))


_EXTRA = {
    "operator": (Port(8080),),
    "gateway": (Port(22),),
    "doctor": (Port(22),),
    "probe": (Port(22),),
    "coturn": (Port(22), Port(62000, "UDP")),
    "PostgreSQL": (Port(22),),
    "Redis": (Port(22),),
}


def _workloads(rendered: list[Object]) -> Iterator[Role]:
    """The chart's own pods: two of each, since replicas are peers too."""
    for number, made in enumerate(rendered):
        spec = (
            made["spec"]["jobTemplate"]["spec"]
            if made["kind"] == "CronJob"
            else made.get("spec", {})
        )
        template = spec.get("template", {})
        if "spec" not in template or template["spec"].get("hostNetwork"):
            continue
        workload = made["metadata"]["name"]
        name = _NAMES.get(workload, workload.removeprefix("vdi-"))
        metadata = {"namespace": made["metadata"]["namespace"], **template["metadata"]}
        for replica in (1, 2):
            yield _pod(
                name, f"10.42.{replica}.{number}", metadata, template["spec"], *_EXTRA.get(name, ())
            )


def _pod(name: str, ip: str, metadata: Object, spec: Object, *extra: Port) -> Role:
    (container,) = spec["containers"]
    ports = [
        Port(port["containerPort"], port.get("protocol", "TCP"), port["name"])
        for port in container.get("ports", [])
    ]
    labels = tuple(sorted(metadata["labels"].items()))
    return Role(name, ip, (*ports, *extra), metadata["namespace"], labels, is_ours=True)


# Ports of those to whom anything might be sent: the ports of all that a rule opens, and some.
_USUAL = (
    *(Port(number) for number in (22, 80, 443, 5432, 6379, 8081, 8082, 8443)),
    Port(443, "UDP"),
    Port(3478, "UDP"),
)


def _others(namespace: str) -> Iterator[Role]:
    def other(
        name: str, ip: str, where: str, label: str, *ports: Port, is_ours: bool = False
    ) -> Role:
        key, _, value = label.partition("=")
        return Role(name, ip, ports, where, ((key, value),), is_ours=is_ours)

    known = "app.kubernetes.io/name"
    yield other("Traefik", "10.42.3.1", "kube-system", f"{known}=traefik", Port(8443), Port(8000))
    yield other("Prometheus", "10.42.3.2", "monitoring", f"{known}=prometheus", Port(9090))
    yield other(
        "DNS", "10.42.3.3", "kube-system", "k8s-app=kube-dns", Port(53, "UDP"), Port(53), Port(9153)
    )
    yield other("stranger", "10.42.3.4", "default", "app=web", *_USUAL)
    yield other("neighbour", "10.42.3.5", "vdi-system", "app=web", *_USUAL)
    # Whatever else is in the sessions' namespace: it is denied everything, unless that is the
    # release's own namespace.
    if namespace != "vdi-system":
        yield other("lodger", "10.42.3.6", namespace, "app=web", Port(80), Port(443), is_ours=True)


def _addresses() -> Iterator[Role]:
    turn = (Port(3478, "UDP"), Port(3478), Port(5349), Port(62000, "UDP"), Port(62000), Port(9641))
    yield Role("API server", NODE, (Port(443), Port(6443), Port(10250), Port(16443)), sends=False)
    yield Role("node with coturn", "192.168.1.11", (*turn, Port(22)))
    yield Role("DNS on the node", "169.254.20.10", (Port(53, "UDP"), Port(53)), sends=False)
    yield Role("cloud metadata", "169.254.169.254", (Port(80),), sends=False)
    for address in PRIVATE:
        yield Role("private address", address, _USUAL, sends=False)
    for address in INTERNET:
        yield Role("internet", address, _USUAL, sends=False)
    yield Role("host outside", "192.168.9.9", (Port(9443),), sends=True)
