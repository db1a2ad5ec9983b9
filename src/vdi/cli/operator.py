"""`vdi operator`: run the operator by hand, or as the program of its container."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vdi.cli.failures import COULD_NOT_LOOK, FINDINGS, USAGE, CommandFailedError
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
    from vdi.kube.config import load_config
    from vdi.kube.errors import KubeError
    from vdi.operator.logs import set_up_logging
    from vdi.operator.main import run_process
    from vdi.operator.settings import SettingsError, read_settings

    try:
        settings = read_settings(os.environ)
    except SettingsError as why:
        raise CommandFailedError(str(why), USAGE) from why
    set_up_logging(settings.log_level, settings.log_format)
    try:
        run_process(load_config(kubeconfig, context), settings)
    except KubeError as why:
        raise CommandFailedError(str(why), COULD_NOT_LOOK) from why
    except OSError as why:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise CommandFailedError(f"VDI_METRICS_ADDR={where}: cannot listen there: {why}", FINDINGS) from why
