"""`vdi cluster`: a real Kubernetes cluster on this machine, for trying things and for tests."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from vdi.cli.errors import FINDINGS
from vdi.cli.long_work import errors_in_words, progress_of
from vdi.cli.options import examples
from vdi.cli.output import PageOption, PageOutput
from vdi.devcluster import cluster
from vdi.devcluster.layout import ClusterError, layout_of
from vdi.devcluster.status import ClusterStatus

app = typer.Typer(
    name="cluster",
    no_args_is_help=True,
    help="A real Kubernetes cluster on this machine, made of the real components, for trying things and for tests."
    " Have a cluster already (K3s, k3d, kind, ...)? Then you need none of this: install charts/vdi there with Helm.",
)

Name = Annotated[str, typer.Option("--name", help="Which cluster: a-z, 0-9 and -, at most 10.")]


@app.command(epilog=examples("cluster up --fake-gpus 4", "cluster up --control-plane-only --name dev"))
def up(
    name: Name = "demo",
    control_plane_only: Annotated[
        bool, typer.Option("--control-plane-only", help="API server and controllers, but no node: needs no root.")
    ] = False,
    fake_gpus: Annotated[
        int | None, typer.Option("--fake-gpus", min=0, max=64, help="Pretend the node has so many nvidia.com/gpu.")
    ] = None,
    install_packages: Annotated[
        bool, typer.Option("--install-packages", help="Install missing system tools with apt-get.")
    ] = False,
) -> None:
    """Bring the cluster up; when it is up already, repair what is broken and say so.

    A cluster that exists, such as the demo's after a power cut, is started as it was made: without options. The node
    needs root: it asks through sudo, and only for its last steps. Have a cluster already (K3s, k3d, kind)?
    Then install the chart charts/vdi there with Helm instead.
    """
    with errors_in_words(), progress_of(name) as progress:
        made = cluster.up(
            name,
            control_plane_only=control_plane_only,
            fake_gpus=fake_gpus,
            install_packages=install_packages,
            progress=progress,
        )
    console = Console()
    console.print(f"Cluster {name!r} {'was already running' if made.was_running else 'is up'}: {made.server}")
    if made.fake_gpus:
        console.print(
            f"{made.fake_gpus} pretended GPUs: pods that request one are scheduled, but there is no hardware."
        )
    console.print(f"  export KUBECONFIG={made.kubeconfig}", soft_wrap=True)


@app.command(epilog=examples("cluster down --name dev"))
def down(name: Name = "demo") -> None:
    """Stop the cluster and remove everything it had; downloaded and built files stay in the cache."""
    with errors_in_words():
        removed = cluster.down(name)
    print(f"Removed of cluster {name!r}: {', '.join(removed)}." if removed else f"There is no cluster {name!r}.")


@app.command(epilog=examples("cluster reset --control-plane-only"))
def reset(
    name: Name = "demo",
    control_plane_only: Annotated[bool, typer.Option("--control-plane-only", help="As in `up`.")] = False,
    fake_gpus: Annotated[int | None, typer.Option("--fake-gpus", min=0, max=64, help="As in `up`.")] = None,
) -> None:
    """Take the cluster down and bring a fresh one up; all in it is lost."""
    down(name)
    up(name, control_plane_only=control_plane_only, fake_gpus=fake_gpus)


@app.command(epilog=examples("cluster status", "cluster status -o json"))
def status(
    name: Name = "demo",
    output: PageOption = PageOutput.TABLE,
) -> None:
    """Show what each process, the node and the add-ons do; status 1 when anything is broken."""
    with errors_in_words():
        found = cluster.status(name)
    if output is PageOutput.JSON:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _print_status(found)
    raise typer.Exit(0 if found.state == "running" else FINDINGS)


@app.command(epilog=examples("cluster logs kube-apiserver -f"))
def logs(
    component: Annotated[str, typer.Argument(help="Which component; none lists them.")] = "",
    name: Name = "demo",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows.")] = False,
) -> None:
    """Print a component's log."""
    with errors_in_words():
        folder = layout_of(name).logs
        known = sorted(path.stem for path in folder.glob("*.log"))
        if not known:
            raise ClusterError(f"there is no cluster {name!r}, so no logs in {folder}")
        if component and component not in known:
            raise ClusterError(f"component {component!r}: cluster {name!r} has {', '.join(known)}")
    if not component:
        print("\n".join(known))
        return
    # tail follows over rotation and ends with Ctrl-C, and this process has nothing else to do.
    words = ["tail", "-n", "+1", *(["-F"] if follow else []), str(folder / f"{component}.log")]
    sys.stdout.flush()
    os.execvp(words[0], words)  # noqa: S606 - no shell is wanted


@app.command(epilog=examples("cluster kubeconfig", "cluster kubeconfig --print"))
def kubeconfig(
    name: Name = "demo",
    content: Annotated[bool, typer.Option("--print", help="The content instead of the path; it holds a key.")] = False,
) -> None:
    """Print the path of the administrator's kubeconfig."""
    with errors_in_words():
        path = layout_of(name).kubeconfig
        if not path.exists():
            raise ClusterError(f"there is no cluster {name!r}: `vdi cluster up` makes one")
    print(path.read_text() if content else path)


def _print_status(found: ClusterStatus) -> None:
    console = Console()
    if found.state == "absent":
        console.print(f"There is no cluster {found.name!r}: `vdi cluster up` makes one.")
        return
    console.print(f"Cluster {found.name!r} is {found.state}: {found.server}")
    table = Table("COMPONENT", "STATE", "PID", "RESTARTS", "LAST EXIT", box=None, pad_edge=False)
    for component in found.components:
        table.add_row(
            component.name,
            component.state,
            str(component.pid or "-"),
            str(component.restarts),
            component.last_exit or "-",
        )
    for addon in found.addons:
        table.add_row(addon.name, "running" if addon.ready else "not ready", "-", "-", addon.detail)
    console.print(table)
    if not found.control_plane_only:
        ready = {True: "Ready", False: "not Ready", None: "unknown (the API server does not say)"}[found.node_ready]
        gpus = f", {found.fake_gpus} pretended GPUs" if found.fake_gpus else ""
        console.print(f"Node {ready}; HTTPS for desktops on 127.0.0.1:{found.websecure_port}{gpus}")
