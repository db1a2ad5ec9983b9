"""Steps of `vdi cluster up`: choose the settings of a cluster, write its files, wait for each part,
apply the add-ons.

The add-ons are those of K3s: DNS, local volumes, Traefik's kinds and rights.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

import msgspec

from vdi.devcluster import probe, status
from vdi.devcluster.control_plane import control_plane, write_control_plane_config
from vdi.devcluster.credentials import write_credentials, write_node_credentials
from vdi.devcluster.host_settings import image_pull_environment, without_proxies
from vdi.devcluster.layout import ClusterError, ClusterSettings, Layout, free_ports, state_root
from vdi.devcluster.networks import Networks, NoFreeNetwork, choose_networks
from vdi.devcluster.node import node, setup_commands, write_node_config
from vdi.devcluster.processes import find_supervisor, wait_until, write_spec
from vdi.devcluster.progress import Step
from vdi.devcluster.status import ComponentStatus, read_addons, read_components, read_node
from vdi.devcluster.supervisor import Component

_MANIFESTS = Path(__file__).parent / "manifests"
# How long each wait may take, times `timeout_factor`: 5 to 15 s is usual, a loaded machine takes
# longer.
READY_SECONDS = 120.0
_LOG_LINES = 12

# Before a program's own words. Where that is not permitted, `nice` says so in the log, and starts
# it all the same.
_BEFORE_OTHERS = ("nice", "-n", "-10")

# The preferred port of the desktops, so that their URLs stay the same.
USUAL_WEBSECURE_PORT = 8443


def apply_addons(
    step: Step, layout: Layout, settings: ClusterSettings, binaries: Mapping[str, Path]
) -> None:
    """Apply Traefik's kinds and, where there is a node, all the rest. Applying again heals what was
    changed.
    """
    manifests = [binaries["traefik-crds.yaml"].read_text()]
    if settings.networks is not None:
        resolv_conf = (layout.config / "resolv.conf").read_text()
        manifests += render(layout, settings.node_name, settings.networks, resolv_conf)
    kubectl: list[str | Path] = [binaries["kubectl"], "--kubeconfig", layout.kubeconfig]
    apply: list[str | Path] = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=vdi-cluster",
        "-f",
        "-",
    ]
    step.run(
        [*kubectl, *apply],
        env=without_proxies(os.environ),
        stdin="\n---\n".join(manifests).encode(),
    )
    layout.addons_applied.touch()


def render(layout: Layout, node_name: str, networks: Networks, resolv_conf: str) -> list[str]:
    """The add-ons, on the node of that name: the first one, which no one stops alone.

    Without a name server to ask, DNS answers for the cluster only, and at once.
    """
    values = {
        "dns_service": networks.dns_service,
        "forward": (
            "forward . /etc/resolv.conf"
            if resolv_conf
            else "# this machine has no name server to ask"
        ),
        "volumes": str(layout.volumes),
        "node_name": node_name,
        "node_address": networks.node_address,
    }
    return [
        Template(path.read_text()).substitute(values) for path in sorted(_MANIFESTS.glob("*.yaml"))
    ]


@dataclass(frozen=True)
class Kind:
    """Shape of a cluster; fixed until a reset."""

    control_plane_only: bool
    fake_gpus: int
    nodes: int = 1

    def __str__(self) -> str:
        if self.control_plane_only:
            return "a control plane only"
        gpus = ""
        if self.fake_gpus:
            gpus = f" with {self.fake_gpus} simulated GPUs"
        if self.nodes == 1:
            return f"a full node{gpus}"
        return f"{self.nodes} full nodes{gpus and f'{gpus} each'}"

    @property
    def options(self) -> str:
        """The options of `vdi cluster up` that request it."""
        if self.control_plane_only:
            return " --control-plane-only"
        gpus = f" --fake-gpus {self.fake_gpus}" if self.fake_gpus else ""
        return gpus + (f" --nodes {self.nodes}" if self.nodes > 1 else "")


def choose_kind(
    name: str,
    known: ClusterSettings | None,
    *,
    control_plane_only: bool,
    fake_gpus: int | None,
    nodes: int | None = None,
) -> Kind:
    """The requested shape; for what was not requested, the existing one. Raises ClusterError on a
    contradiction.
    """
    for option, number in (("--fake-gpus", fake_gpus), ("--nodes", nodes)):
        if control_plane_only and number:
            raise ClusterError(
                f"{option} {number} needs a node, and --control-plane-only creates none: omit one"
                " of them"
            )
    if known is None:
        return Kind(control_plane_only, fake_gpus or 0, nodes or 1)
    made = Kind(known.control_plane_only, known.fake_gpus, known.nodes)
    if not control_plane_only and fake_gpus is None and nodes is None:
        return made
    if control_plane_only:
        kept = Kind(control_plane_only=True, fake_gpus=0)
    else:
        kept = made
    requested = Kind(
        control_plane_only,
        kept.fake_gpus if fake_gpus is None else fake_gpus,
        kept.nodes if nodes is None else nodes,
    )
    if requested != made:
        raise ClusterError(_explain_difference(name, made, requested))
    return made


def _explain_difference(name: str, made: Kind, requested: Kind) -> str:
    verb = "is" if requested.nodes == 1 else "are"
    more = replace(made, nodes=requested.nodes) == requested and requested.nodes > made.nodes
    add = ""
    if more:
        add = f"; `vdi cluster nodes --name {name} --add-node` adds a node"
    return (
        f"cluster {name} was created as {made}, but {requested} {verb} requested. `vdi cluster"
        f" up --name {name}` starts it as it was created; `vdi cluster down --name {name}`"
        " removes it with all data in it, and then `vdi cluster up --name"
        f" {name}{requested.options}` creates it; another --name creates a second one{add}"
    )


def choose_settings(name: str, known: ClusterSettings | None, kind: Kind) -> ClusterSettings:
    """The settings it had before; only the desktops' port changes, if another program took it."""
    if known is not None:
        if known.websecure_port:
            return msgspec.structs.replace(
                known, websecure_port=free_ports(1, known.websecure_port)[0]
            )
        return known
    if kind.control_plane_only:
        api_port, etcd_port, etcd_peer_port = free_ports(3)
        return ClusterSettings(
            name=name,
            control_plane_only=True,
            fake_gpus=0,
            api_host="127.0.0.1",
            api_port=api_port,
            etcd_port=etcd_port,
            etcd_peer_port=etcd_peer_port,
        )
    try:
        networks = choose_networks([*probe.routes(), *_ranges_of_other_clusters()])
    except NoFreeNetwork as error:
        raise ClusterError(str(error)) from error
    return ClusterSettings(
        name=name,
        control_plane_only=False,
        fake_gpus=kind.fake_gpus,
        api_host=networks.node_address,
        api_port=6443,  # in a network namespace of its own
        etcd_port=2379,
        etcd_peer_port=2380,
        websecure_port=free_ports(1, USUAL_WEBSECURE_PORT)[0],
        networks=networks,
        nodes=kind.nodes,
    )


def _ranges_of_other_clusters() -> Iterator[str]:
    """Of clusters that are down for the moment, too: their addresses are written into their
    certificates.
    """
    for file in state_root().glob("*/cluster.json"):
        other = Layout(file.parent).load()
        if other is not None and other.networks is not None:
            yield from (other.networks.link, other.networks.pods, other.networks.services)


def write_files(
    layout: Layout,
    settings: ClusterSettings,
    binaries: Mapping[str, Path],
    *,
    is_slow: bool = False,
) -> None:
    """Everything that the supervisor and the components read.

    On a slow machine (`is_slow`) the control plane waits until `layout.images_loaded` exists.
    """
    layout.save(settings)
    layout.addons_applied.unlink(missing_ok=True)
    layout.images_loaded.unlink(missing_ok=True)
    write_credentials(layout, settings)
    write_control_plane_config(layout)
    needs_file = str(layout.images_loaded) if is_slow else ""
    components = control_plane(layout, settings, binaries, needs_file=needs_file)
    setup: list[list[str]] = []
    if not settings.control_plane_only:
        components += _write_node(layout, settings, binaries)
        setup = setup_commands(layout, settings)
    write_spec(layout, _for_a_slow_machine(components) if is_slow else components, setup)


def write_node_files(
    layout: Layout,
    settings: ClusterSettings,
    binaries: Mapping[str, Path],
    *,
    is_slow: bool = False,
) -> None:
    """Everything that the supervisor and the components of a further node read."""
    write_node_credentials(layout, settings)
    components = _write_node(layout, settings, binaries)
    write_spec(
        layout,
        _for_a_slow_machine(components) if is_slow else components,
        setup_commands(layout, settings),
    )


def _write_node(
    layout: Layout, settings: ClusterSettings, binaries: Mapping[str, Path]
) -> list[Component]:
    machine = probe.read_machine(containerd=binaries["containerd"], state=layout.root)
    write_node_config(layout, settings, machine, binaries)
    return node(layout, settings, binaries, image_pull_environment(os.environ))


def _for_a_slow_machine(components: Sequence[Component]) -> list[Component]:
    """Each on one processor, and before other programs.

    With two processors, Go's timers wake twice as many threads while nothing happens. Without
    enough CPU time the API server loses its connections, and making them again needs more than
    serving them. Not containerd, which unpacks images side by side, and whose containers would go
    before other programs too.
    """
    return [
        (
            component
            if component.name == "containerd"
            else replace(
                component,
                argv=[*_BEFORE_OTHERS, *component.argv],
                env={**component.env, "GOMAXPROCS": "1"},
            )
        )
        for component in components
    ]


def wait_running(
    layout: Layout, step: Step, *, only: Collection[str] = (), timeout_factor: float
) -> None:
    """Until every component (of `only`, if given) runs that may by now; says which do not, with
    their logs' ends.
    """
    seconds = READY_SECONDS * timeout_factor
    if layout.cluster:
        if layout.images_loaded.exists():
            later = set()
        else:
            later = {"kubelet", "kube-proxy", "fake-gpus"}
    elif layout.addons_applied.exists():
        later = set()
    else:
        later = {"traefik", "traefik-pods"}

    def awaited() -> list[ComponentStatus]:
        components = read_components(layout)
        return [one for one in components if (one.name in only if only else one.name not in later)]

    def all_running() -> bool:
        if find_supervisor(layout) is None:
            raise ClusterError(f"the supervisor ended:\n{log_tail(layout, 'supervisor')}")
        components = awaited()
        waiting = [component.name for component in components if component.state != "running"]
        step.update(", ".join(waiting), done=len(components) - len(waiting), total=len(components))
        return bool(components) and not waiting

    if not wait_until(all_running, seconds):
        lines = []
        for component in awaited():
            if component.state != "running":
                ended = ""
                if component.restarts:
                    ended = f", ended {component.restarts} times, last: {component.last_exit}"
                lines.append(
                    f"{component.name} is"
                    f" {component.state}{ended}\n{log_tail(layout, component.name)}"
                )
        raise ClusterError(f"not running after {seconds:.0f} s:\n" + "\n".join(lines))


def wait_pods_allowed(
    layout: Layout, settings: ClusterSettings, step: Step, *, timeout_factor: float
) -> None:
    """Until the controllers have made the default service account: before that every pod is
    refused.
    """
    seconds = READY_SECONDS * timeout_factor
    step.update("the default service account")
    last: list[status.NoAnswer] = []

    def made() -> bool:
        try:
            status.get(layout, settings, "/api/v1/namespaces/default/serviceaccounts/default")
        except status.NoAnswer as error:
            last[:] = [error]
            return False
        return True

    if not wait_until(made, seconds):
        raise ClusterError(
            f"the default service account does not exist after {seconds:.0f} s: {last[0]}"
        )


def wait_node(
    layout: Layout, settings: ClusterSettings, step: Step, *, timeout_factor: float
) -> None:
    """Until the node is Ready and, with the first one, the add-ons' pods are."""
    name = settings.name_of(layout.number)
    seconds = READY_SECONDS * timeout_factor

    def settled() -> bool:
        if read_node(layout, settings, name):
            waiting = []
        else:
            waiting = [f"node {name}"]
        addons = [] if layout.cluster else read_addons(layout, settings)
        waiting += [f"{addon.name}: {addon.detail}" for addon in addons if not addon.ready]
        step.update(", ".join(waiting))
        missing[:] = waiting
        return not waiting

    missing: list[str] = []
    if not wait_until(settled, seconds):
        raise ClusterError(
            f"not ready after {seconds:.0f} s: {', '.join(missing)}\nkubelet"
            f" says:\n{log_tail(layout, 'kubelet')}"
        )


def log_tail(layout: Layout, component: str) -> str:
    """The end of a component's log, indented."""
    try:
        text = (layout.logs / f"{component}.log").read_text(errors="replace")
    except FileNotFoundError:
        return f"  (no log of {component} yet)"
    return "\n".join(f"  | {line}" for line in text.splitlines()[-_LOG_LINES:])
