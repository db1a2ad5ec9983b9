"""`vdi operator`: runs the operator by hand, or as the program of its container.

`become` also starts the gateway.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import Context, Kubeconfig, examples, new_app


def become(module: str, kubeconfig: Path | None, context: str | None) -> NoReturn:
    """Run `python -m MODULE` in the place of this process.

    What reads the command line would stay in memory for as long as the program runs.
    """
    given = {"VDI_KUBECONFIG": kubeconfig and str(kubeconfig), "VDI_CONTEXT": context}
    environment = os.environ | {name: value for name, value in given.items() if value}
    os.execve(sys.executable, [sys.executable, "-P", "-m", module], environment)  # noqa: S606 - no shell is wanted


app = new_app()


@app.callback()
def operator() -> None:
    """The controller that turns sessions into desktops."""


@app.command(
    epilog=examples("operator run", "operator run --kubeconfig ~/.kube/config --context kind-vdi")
)
def run(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run the operator until SIGTERM or Ctrl-C.

    Settings are environment variables: VDI_NAMESPACE (vdi-sessions; several with commas),
    VDI_OPERATOR_NAMESPACE (vdi-system), VDI_DOMAIN (vdi.localhost), VDI_URL_PORT (443),
    VDI_ENTRY_POINT (websecure), VDI_TLS_SECRET, VDI_CERT_RESOLVER, VDI_REQUESTS_CPU (250m),
    VDI_REQUESTS_MEMORY (1Gi), VDI_GPU_RESOURCE (nvidia.com/gpu), VDI_COUNT_OTHER_WORKLOADS (true),
    VDI_QUEUE_WEIGHTS (alice=2,bob=0.5: all others have 1), VDI_PLACEHOLDER_NAMESPACE (without it no
    node is requested), VDI_PLACEHOLDER_IMAGE, VDI_PLACEHOLDER_PRIORITY_CLASS, VDI_MAX_PLACEHOLDERS
    (10), VDI_HEADROOM (cad=2,small=1), VDI_DRAIN_NOTICE (60s), VDI_MAX_TIMEOUT (no limit),
    VDI_AGENT_PORT (8082), VDI_WORKERS (32), VDI_LOG_LEVEL (info), VDI_LOG_FORMAT (text or json),
    VDI_METRICS_ADDR (0.0.0.0:8081), VDI_METRICS_TOKEN_FILE.
    """
    if importlib.util.find_spec("uvloop") is None:
        raise CliError(
            "the operator's libraries are not installed: pip install 'vdi-kubernetes[operator]'",
            USAGE,
        )
    become("vdi.operator", kubeconfig, context)
