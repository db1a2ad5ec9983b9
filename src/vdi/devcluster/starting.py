"""The steps of `up`: choose the settings of a cluster, write its files, wait until it does what it should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vdi.devcluster import api, probe
from vdi.devcluster.control_plane import control_plane, write_control_plane_config
from vdi.devcluster.credentials import write_credentials
from vdi.devcluster.layout import ClusterError, ClusterSettings, Layout, free_ports, state_root
from vdi.devcluster.networks import NoFreeNetwork, choose_networks
from vdi.devcluster.node import node, setup_commands, write_node_config
from vdi.devcluster.processes import find_supervisor, wait_until, write_spec
from vdi.devcluster.progress import Step
from vdi.devcluster.status import read_addons, read_components, read_node

READY_SECONDS = 120.0
"""How long each wait may take: 5 to 15 s is usual, a loaded machine takes longer."""

USUAL_WEBSECURE_PORT = 8443
"""The preferred port of the desktops, so that their URLs stay the same."""


@dataclass(frozen=True)
class Kind:
    """What a cluster is made as; it stays that until a reset."""

    control_plane_only: bool
    fake_gpus: int

    def __str__(self) -> str:
        if self.control_plane_only:
            return "a control plane only"
        return "a full node" + (f" with {self.fake_gpus} pretended GPUs" if self.fake_gpus else "")

    @property
    def options(self) -> str:
        """The options of `vdi cluster up` that request it."""
        if self.control_plane_only:
            return " --control-plane-only"
        return f" --fake-gpus {self.fake_gpus}" if self.fake_gpus else ""


def choose_kind(name: str, known: ClusterSettings | None, *, control_plane_only: bool, fake_gpus: int | None) -> Kind:
    """What was requested; where nothing was, what the cluster was made as. Raises ClusterError on a contradiction."""
    if control_plane_only and fake_gpus:
        raise ClusterError(
            f"--fake-gpus {fake_gpus} needs a node, and --control-plane-only makes none: leave out one of them"
        )
    requested = Kind(control_plane_only, fake_gpus or 0)
    if known is None:
        return requested
    made = Kind(known.control_plane_only, known.fake_gpus)
    if requested != made and (control_plane_only or fake_gpus is not None):
        raise ClusterError(
            f"cluster {name!r} was made as {made}, and {requested} is requested. `vdi cluster up --name {name}` starts"
            f" it as it was made; `vdi cluster reset --name {name}{requested.options}` makes it new, and everything in"
            " it is lost; another --name makes a second cluster"
        )
    return made


def choose_settings(name: str, known: ClusterSettings | None, kind: Kind) -> ClusterSettings:
    """What to run it with: what it had before, but for the desktops' port if another program took that."""
    if known is not None:
        if known.websecure_port:
            return msgspec.structs.replace(known, websecure_port=free_ports(1, known.websecure_port)[0])
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
    )


def _ranges_of_other_clusters() -> Iterator[str]:
    """Of clusters that are down for the moment, too: their addresses are written into their certificates."""
    for file in state_root().glob("*/cluster.json"):
        other = Layout(file.parent).load()
        if other is not None and other.networks is not None:
            yield from (other.networks.link, other.networks.pods, other.networks.services)


def write_files(layout: Layout, settings: ClusterSettings, binaries: Mapping[str, Path]) -> None:
    """Everything that the supervisor and the components read."""
    layout.save(settings)
    layout.addons_applied.unlink(missing_ok=True)
    write_credentials(layout, settings)
    write_control_plane_config(layout)
    components = control_plane(layout, settings, binaries)
    setup: list[list[str]] = []
    if not settings.control_plane_only:
        machine = probe.read_machine(containerd=binaries["containerd"], state=layout.root)
        write_node_config(layout, settings, machine, binaries)
        components += node(layout, settings, binaries)
        setup = setup_commands(layout, settings)
    write_spec(layout, components, setup)


def wait_running(layout: Layout, step: Step) -> None:
    """Until every component runs that may by now; says which do not, with the end of their logs."""
    later = {"traefik"} if not layout.addons_applied.exists() else set()

    def all_running() -> bool:
        if find_supervisor(layout) is None:
            raise ClusterError(f"the supervisor ended:\n{log_tail(layout, 'supervisor')}")
        components = [component for component in read_components(layout) if component.name not in later]
        waiting = [component.name for component in components if component.state != "running"]
        step.update(", ".join(waiting), done=len(components) - len(waiting), total=len(components))
        return bool(components) and not waiting

    if not wait_until(all_running, READY_SECONDS):
        lines = []
        for component in read_components(layout):
            if component.state != "running" and component.name not in later:
                ended = f", ended {component.restarts} times, last: {component.last_exit}" if component.restarts else ""
                lines.append(f"{component.name} is {component.state}{ended}\n{log_tail(layout, component.name)}")
        raise ClusterError(f"not running after {READY_SECONDS:.0f} s:\n" + "\n".join(lines))


def wait_pods_allowed(layout: Layout, settings: ClusterSettings, step: Step) -> None:
    """Until the controllers have made the default service account: before that every pod is refused."""
    step.update("the default service account")
    last: list[api.NoAnswer] = []

    def made() -> bool:
        try:
            api.get(layout, settings, "/api/v1/namespaces/default/serviceaccounts/default")
        except api.NoAnswer as error:
            last[:] = [error]
            return False
        return True

    if not wait_until(made, READY_SECONDS):
        raise ClusterError(f"the default service account is not there after {READY_SECONDS:.0f} s: {last[0]}")


def wait_node(layout: Layout, settings: ClusterSettings, step: Step) -> None:
    """Until the node is Ready and the add-ons' pods are."""

    def settled() -> bool:
        waiting = [] if read_node(layout, settings) else ["node"]
        waiting += [f"{addon.name}: {addon.detail}" for addon in read_addons(layout, settings) if not addon.ready]
        step.update(", ".join(waiting))
        missing[:] = waiting
        return not waiting

    missing: list[str] = []
    if not wait_until(settled, READY_SECONDS):
        raise ClusterError(
            f"not ready after {READY_SECONDS:.0f} s: {', '.join(missing)}\nkubelet says:\n{log_tail(layout, 'kubelet')}"
        )


def log_tail(layout: Layout, component: str, lines: int = 12) -> str:
    """The end of a component's log, indented."""
    try:
        text = (layout.logs / f"{component}.log").read_text(errors="replace")
    except FileNotFoundError:
        return f"  (no log of {component} yet)"
    return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])
