"""`vdi operator`: run the operator by hand, or as the program of its container."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdi.cli.options import examples

app = typer.Typer(no_args_is_help=True)


@app.callback()
def operator() -> None:
    """The controller that turns sessions into desktops."""


@app.command(epilog=examples("operator run", "operator run --kubeconfig ~/.kube/config --context kind-vdi"))
def run(
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            envvar="VDI_KUBECONFIG",
            help="Credentials file; without it $KUBECONFIG, the pod's own account, ~/.kube/config.",
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(envvar="VDI_CONTEXT", help="Context of the kubeconfig.")] = None,
) -> None:
    """Run the operator until SIGTERM or Ctrl-C.

    Settings are environment variables: VDI_NAMESPACE (vdi-sessions), VDI_DOMAIN (vdi.localhost), VDI_URL_PORT (443),
    VDI_ENTRY_POINT (websecure), VDI_TLS_SECRET, VDI_CERT_RESOLVER, VDI_REQUESTS_CPU (250m), VDI_REQUESTS_MEMORY (1Gi),
    VDI_GPU_RESOURCE (nvidia.com/gpu), VDI_COUNT_OTHER_WORKLOADS (true), VDI_QUEUE_WEIGHTS (alice=2,bob=0.5: all others
    have 1), VDI_DRAIN_NOTICE (60s), VDI_AGENT_PORT (8082), VDI_WORKERS (32), VDI_LOG_LEVEL (info), VDI_LOG_FORMAT (text
    or json), VDI_METRICS_ADDR (0.0.0.0:8081).
    """
    given = {"VDI_KUBECONFIG": kubeconfig and str(kubeconfig), "VDI_CONTEXT": context}
    environment = os.environ | {name: value for name, value in given.items() if value}
    # In the place of this process: what reads the command line would stay in memory for as long as the operator runs.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "vdi.operator"], environment)  # noqa: S606 - no shell is wanted
