"""Status of a cluster: processes as its supervisor reports them, node and add-ons as the API server
does.

The few requests stand here; people and the operator use `vdi.kube`.
"""

import http.client
import json
import ssl
from typing import Any

import msgspec

from vdi.devcluster.layout import ClusterSettings, Layout
from vdi.devcluster.processes import find_supervisor, host_pids
from vdi.devcluster.supervisor import State

# Add-ons and their Deployments in kube-system; Traefik runs beside the cluster, among the
# components.
ADDONS = {"coredns": "coredns", "local-path": "local-path-provisioner"}
_TIMEOUT = 5.0
_LARGEST_ANSWER = 64 * 2**20


class NoAnswer(Exception):  # noqa: N818 - named for what happened
    """Raised when the API server cannot be reached or refuses; its words, or the system's."""


def get(layout: Layout, settings: ClusterSettings, path: str) -> dict[str, Any]:
    """GET `path` as the administrator. Raises NoAnswer."""
    context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
    context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
    connection = http.client.HTTPSConnection(
        settings.api_host, settings.api_port, timeout=_TIMEOUT, context=context
    )
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read(_LARGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"GET {settings.server}{path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise NoAnswer(
            f"GET {settings.server}{path}: status {response.status}"
            f" {content[:200].decode(errors='replace')}"
        )
    answer: dict[str, Any] = json.loads(content)
    return answer


class ComponentStatus(msgspec.Struct, frozen=True):
    """One supervised process. `state` is waiting, starting, running, backoff, stopped or dead (not
    supervised).
    """

    name: str
    state: str
    pid: int
    restarts: int
    # How it ended the last time, and when; empty if it never did.
    last_exit: str


class AddonStatus(msgspec.Struct, frozen=True):
    """One add-on's Deployment."""

    name: str
    ready: bool
    detail: str


class NodeStatus(msgspec.Struct, frozen=True):
    """One node of a cluster that has several."""

    name: str
    # Running; stopped, when none of its processes runs; cut, when its network is cut.
    state: str
    # What the API server says; None when it does not answer, or does not know the node.
    ready: bool | None
    # Empty for the first node, whose components are the cluster's.
    components: list[ComponentStatus]


class ClusterStatus(msgspec.Struct, frozen=True):
    """`state` is absent, running, degraded (something is not as it should be) or dead (no
    supervisor).
    """

    name: str
    state: str
    control_plane_only: bool = False
    server: str = ""
    kubeconfig: str = ""
    websecure_port: int = 0
    fake_gpus: int = 0
    # Of the first node; None when there is no node, or the API server does not answer.
    node_ready: bool | None = None
    components: list[ComponentStatus] = []
    addons: list[AddonStatus] = []
    nodes: list[NodeStatus] = []


def read_components(layout: Layout) -> list[ComponentStatus]:
    """The supervisor's last word, corrected by whether it still lives."""
    try:
        content = msgspec.json.decode(layout.status.read_bytes(), type=dict[str, dict[str, State]])
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    supervised = find_supervisor(layout)
    pids = host_pids(supervised.main.pid) if supervised else {}
    return [
        ComponentStatus(
            name=name,
            state=component.state if supervised else "dead",
            pid=pids.get(component.pid, 0),
            restarts=component.restarts,
            last_exit=component.last_exit,
        )
        for name, component in content["components"].items()
    ]


def status_of(layout: Layout, settings: ClusterSettings | None) -> ClusterStatus:
    """Look at everything once, waiting for nothing."""
    if settings is None:
        return ClusterStatus(name=layout.name, state="absent")
    components = read_components(layout)
    alive = find_supervisor(layout) is not None
    if alive and not settings.control_plane_only:
        addons = read_addons(layout, settings)
    else:
        addons = []
    nodes = [
        _node_status(layout.of_node(number), settings, alive) for number in settings.node_numbers
    ]
    healthy = (
        bool(components)
        and all(component.state == "running" for component in components)
        and all(addon.ready for addon in addons)
        and all(_is_healthy(node) for node in nodes)
    )
    state = "dead"
    if alive:
        state = "running" if healthy else "degraded"
    return ClusterStatus(
        name=layout.name,
        state=state,
        control_plane_only=settings.control_plane_only,
        server=settings.server,
        kubeconfig=str(layout.kubeconfig),
        websecure_port=settings.websecure_port,
        fake_gpus=settings.fake_gpus,
        node_ready=nodes[0].ready if nodes else None,
        components=components,
        addons=addons,
        nodes=nodes,
    )


def _node_status(layout: Layout, settings: ClusterSettings, alive: bool) -> NodeStatus:
    name = settings.name_of(layout.number)
    ready = read_node(layout, settings, name) if alive else None
    state = "running"
    if find_supervisor(layout) is None:
        state = "stopped"
    elif layout.network_cut.exists():
        state = "cut"
    return NodeStatus(name, state, ready, read_components(layout) if layout.cluster else [])


def _is_healthy(node: NodeStatus) -> bool:
    running = all(component.state == "running" for component in node.components)
    return node.state == "running" and node.ready is True and running


def read_node(layout: Layout, settings: ClusterSettings, name: str) -> bool | None:
    """Whether that node is Ready; None when the API server did not say."""
    try:
        node = get(layout, settings, f"/api/v1/nodes/{name}")
    except NoAnswer:
        return None
    conditions = node.get("status", {}).get("conditions", [])
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def read_addons(layout: Layout, settings: ClusterSettings) -> list[AddonStatus]:
    """Each add-on's Deployment; one that cannot be read counts as not ready, with the reason."""
    addons = []
    for name, deployment in ADDONS.items():
        try:
            content = get(
                layout, settings, f"/apis/apps/v1/namespaces/kube-system/deployments/{deployment}"
            )
        except NoAnswer as error:
            addons.append(AddonStatus(name, False, str(error)))
        else:
            ready = content.get("status", {}).get("readyReplicas", 0)
            addons.append(
                AddonStatus(name, ready > 0, f"{ready} of {content['spec']['replicas']} ready")
            )
    return addons
