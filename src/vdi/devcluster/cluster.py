"""A real Kubernetes cluster on this machine: up, down, status. For the command line, the demo and the tests.

`control_plane_only` runs etcd, API server, controller manager and scheduler on the loopback address, as any user.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vdi.devcluster import api, binaries
from vdi.devcluster.control_plane import CONTROL_PLANE_BINARIES, control_plane, write_control_plane_config
from vdi.devcluster.credentials import write_credentials
from vdi.devcluster.layout import ClusterError, Facts, Layout, free_ports, layout_of
from vdi.devcluster.processes import find_supervisor, start_supervisor, stop_supervisor, wait_until, write_spec
from vdi.devcluster.progress import Progress, Step
from vdi.devcluster.status import ClusterStatus, read_components, status_of

READY_SECONDS = 90.0
"""How long the components get to answer: 5 s is usual, a loaded machine takes longer."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as callers see it."""

    name: str
    kubeconfig: Path
    server: str
    """The API server's URL."""
    websecure_port: int
    """Where Traefik takes HTTPS on 127.0.0.1; 0 without a node."""
    state_dir: Path
    control_plane_only: bool
    fake_gpus: int
    was_running: bool
    """True when there was nothing to start."""


def up(name: str = "demo", *, control_plane_only: bool = False, fake_gpus: int = 0, progress: Progress) -> Cluster:
    """Bring cluster `name` up, or say that it is. Raises ClusterError, StepFailed, SourcesFailed.

    An interrupted first start leaves nothing behind; one that failed leaves its logs.
    """
    layout = layout_of(name)
    with layout.locked():
        known = layout.load()
        if known is not None:
            _refuse_change(known, control_plane_only, fake_gpus)
        was_running = known is not None and find_supervisor(layout) is not None
        try:
            found = binaries.ensure([*CONTROL_PLANE_BINARIES, "traefik-crds.yaml"], progress=progress)
            facts = known or _choose_facts(name, control_plane_only, fake_gpus)
            if not was_running:
                with progress.step("Kubernetes: start the processes"):
                    _start(layout, facts, found)
            with progress.step("Kubernetes: wait for the control plane") as step:
                _wait_running(layout, step)
                _wait_pods_allowed(layout, facts, step)
            with progress.step("Kubernetes: Traefik's kinds") as step:
                _apply(step, layout, found, found["traefik-crds.yaml"])
        except KeyboardInterrupt:
            if not was_running:
                stop_supervisor(layout)
            if known is None:
                _remove(layout)
            raise
    return Cluster(
        name=name,
        kubeconfig=layout.kubeconfig,
        server=facts.server,
        websecure_port=facts.websecure_port,
        state_dir=layout.root,
        control_plane_only=facts.control_plane_only,
        fake_gpus=facts.fake_gpus,
        was_running=was_running,
    )


def down(name: str = "demo") -> list[str]:
    """Stop cluster `name` and remove all it had, however broken it is. Says what was removed. Raises ClusterError."""
    layout = layout_of(name)
    if not layout.root.exists():
        return []
    with layout.locked():
        removed = ["the processes"] if stop_supervisor(layout) else []
        return removed + _remove(layout)


def status(name: str = "demo") -> ClusterStatus:
    """What cluster `name` is doing now. Raises ClusterError for a name that is none."""
    layout = layout_of(name)
    return status_of(layout, layout.load())


def _refuse_change(known: Facts, control_plane_only: bool, fake_gpus: int) -> None:
    wanted, has = (control_plane_only, fake_gpus), (known.control_plane_only, known.fake_gpus)
    if wanted != has:
        raise ClusterError(
            f"cluster {known.name!r} was made with {_describe(*has)}, and {_describe(*wanted)} was asked for now;"
            f" `vdi cluster reset --name {known.name}` makes it anew (all in it is lost),"
            " another --name makes a second one"
        )


def _describe(control_plane_only: bool, fake_gpus: int) -> str:
    return "a control plane only" if control_plane_only else f"a full node and {fake_gpus} pretended GPUs"


def _choose_facts(name: str, control_plane_only: bool, fake_gpus: int) -> Facts:
    api_port, etcd_port, etcd_peer_port = free_ports(3)
    return Facts(
        name=name,
        control_plane_only=control_plane_only,
        fake_gpus=fake_gpus,
        api_host="127.0.0.1",
        api_port=api_port,
        etcd_port=etcd_port,
        etcd_peer_port=etcd_peer_port,
    )


def _start(layout: Layout, facts: Facts, found: Mapping[str, Path]) -> None:
    layout.save(facts)
    write_credentials(layout, facts)
    write_control_plane_config(layout)
    write_spec(layout, control_plane(layout, facts, found), setup=[])
    start_supervisor(layout)


def _wait_running(layout: Layout, step: Step) -> None:
    """Until every component runs; says which do not, with the end of their logs."""

    def all_running() -> bool:
        if find_supervisor(layout) is None:
            raise ClusterError(f"the supervisor ended:\n{log_tail(layout, 'supervisor')}")
        components = read_components(layout)
        waiting = [component.name for component in components if component.state != "running"]
        step.update(", ".join(waiting), done=len(components) - len(waiting), total=len(components))
        return bool(components) and not waiting

    if not wait_until(all_running, READY_SECONDS):
        lines = []
        for component in read_components(layout):
            if component.state != "running":
                ended = f", ended {component.restarts} times, last: {component.last_exit}" if component.restarts else ""
                lines.append(f"{component.name} is {component.state}{ended}\n{log_tail(layout, component.name)}")
        raise ClusterError(f"not running after {READY_SECONDS:.0f} s:\n" + "\n".join(lines))


def _wait_pods_allowed(layout: Layout, facts: Facts, step: Step) -> None:
    """Until the controllers have made the default service account: before that every pod is refused."""
    step.update("the default service account")
    last: list[api.NoAnswer] = []

    def made() -> bool:
        try:
            api.get(layout, facts, "/api/v1/namespaces/default/serviceaccounts/default")
        except api.NoAnswer as error:
            last[:] = [error]
            return False
        return True

    if not wait_until(made, READY_SECONDS):
        raise ClusterError(f"the default service account is not there after {READY_SECONDS:.0f} s: {last[0]}")


def log_tail(layout: Layout, component: str, lines: int = 12) -> str:
    """The end of a component's log, indented."""
    try:
        text = (layout.logs / f"{component}.log").read_text(errors="replace")
    except FileNotFoundError:
        return f"  (no log of {component} yet)"
    return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


def _apply(step: Step, layout: Layout, found: Mapping[str, Path], manifest: Path) -> None:
    kubectl: list[str | Path] = [found["kubectl"], "--kubeconfig", layout.kubeconfig]
    step.run([*kubectl, "apply", "--server-side", "--force-conflicts", "--field-manager=vdi-cluster", "-f", manifest])


def _remove(layout: Layout) -> list[str]:
    if layout.root.exists():
        shutil.rmtree(layout.root)
        return [f"the folder {layout.root}"]
    return []
