"""`vdi images`: image archives on the nodes of a cluster. The work is in `vdi.release.images`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.options import KubeConnection, KubectlPath, examples, new_app, seconds_of, with_cluster
from vdi.cli.output import Output, OutputOption, print_object
from vdi.cli.progress import ProgressView
from vdi.cli.terminal import end_on_interrupt
from vdi.release.chart import RefusedError
from vdi.release.images import (
    NAMESPACE,
    BadArchiveError,
    Loading,
    NodeResult,
    load_images,
    read_archive,
)

if TYPE_CHECKING:
    from vdi.kube.transport import Client

app = new_app()

_LATER = (
    "A node that joins later does not have them: run the command again with --node NAME, or put the"
    " archives into /var/lib/rancher/k3s/agent/images on that node (K3s)."
)


@app.callback()
def images() -> None:
    """Image archives for the nodes of a cluster without a registry."""


@app.command(
    epilog=examples(
        "images load vdi-images-amd64.tar",
        "images load vdi.tar.gz desktop.tar.gz --node k3s-2 -o json",
        "images load vdi.tar --containerd /run/containerd/containerd.sock --ctr /usr/local/bin/ctr",
    )
)
@with_cluster
def load(
    connection: KubeConnection,
    archives: Annotated[
        list[Path],
        typer.Argument(metavar="ARCHIVE...", help="Tar files with images, optionally gzipped."),
    ],
    *,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NAME", help="This node only; repeatable.")
    ] = None,
    containerd: Annotated[
        str | None,
        typer.Option(
            "--containerd",
            metavar="SOCKET",
            help="containerd's socket on the nodes; default: K3s' own, or containerd's default.",
        ),
    ] = None,
    ctr: Annotated[
        str | None,
        typer.Option(
            "--ctr", metavar="PATH", help="ctr on the nodes; default: K3s' own, or /usr/bin/ctr."
        ),
    ] = None,
    kubectl: KubectlPath = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Time limit for each node.")] = "10m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Load images from archives onto every node, without a registry, and pin them there.

    A pod on each node passes the archive to the node's containerd; it is removed at the end, also
    after Ctrl-C. Status 1: a node does not have all images; 130: interrupted.
    """
    seconds = seconds_of("--timeout", timeout)
    for option, path in (("--containerd", containerd), ("--ctr", ctr)):
        if path is not None and not path.startswith("/"):
            raise CliError(f"{option} {path}: allowed: an absolute path on the nodes", USAGE)
    try:
        by_archive = {archive: read_archive(archive) for archive in archives}
    except BadArchiveError as error:
        raise CliError(str(error), USAGE) from error
    command = connection.kubectl(kubectl)
    connection = replace(connection, namespace=NAMESPACE)

    async def work(client: "Client") -> list[NodeResult]:
        with ProgressView() as view:
            at_work: dict[str, str] = {}

            def progress(name: str, text: str) -> None:
                at_work[name] = text
                view.waiting(", ".join(f"{name}: {text}" for name, text in sorted(at_work.items())))

            def done(result: NodeResult) -> None:
                at_work.pop(result.node, None)
                text = result.problem or f"{len(result.images)} images"
                view.passed(f"{result.node}: {text}", result.seconds, well=not result.problem)

            run = Loading(client, command, by_archive, containerd, ctr, seconds, progress)
            return await load_images(run, node or (), done)

    try:
        with end_on_interrupt("Interrupted; the pods are removed. Imported images are kept."):
            results = connection.run(work)
    except RefusedError as error:
        raise CliError(str(error), USAGE) from error
    failed = [result for result in results if result.problem]
    nodes = [
        {
            "node": result.node,
            "loaded": not result.problem,
            "images": list(result.images),
            "seconds": round(result.seconds, 1),
            "message": result.problem,
        }
        for result in results
    ]
    names = sorted({image.name for images in by_archive.values() for image in images})
    line = f"{len(results) - len(failed)} of {len(results)} nodes have all images. {_LATER}"
    print_object({"images": names, "nodes": nodes}, output, lambda: [line])
    if failed:
        raise CliError(
            "; ".join(f"node {result.node}: {result.problem}" for result in failed), FINDINGS
        )
