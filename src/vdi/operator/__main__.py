"""Entry point `python -m vdi.operator`, which `vdi operator run` execs.

It leaves out the command line's parser, whose imports were measured to cost 9 MiB for the life of
the process.
"""

import logging
import os
import sys
from pathlib import Path

from vdi.kube.config import load_config
from vdi.kube.errors import KubeError
from vdi.operator.runtime import run_process
from vdi.process import set_up_logging
from vdi.settings import SettingsError, read_settings

log = logging.getLogger("vdi.operator")

# Exit codes, those of `vdi`.
DONE, FAILED, USAGE, COULD_NOT_LOOK = range(4)


def main() -> int:
    """Run until SIGTERM or Ctrl-C; reads VDI_KUBECONFIG, VDI_CONTEXT and the settings. Returns the
    exit code.
    """
    try:
        settings = read_settings(os.environ)
    except SettingsError as why:
        print(f"Error: {why}", file=sys.stderr)  # noqa: T201 - how to log is not known yet
        return USAGE
    set_up_logging(settings.log_level, settings.log_format)
    kubeconfig, context = os.environ.get("VDI_KUBECONFIG"), os.environ.get("VDI_CONTEXT")
    try:
        run_process(
            load_config(Path(kubeconfig) if kubeconfig else None, context or None), settings
        )
    except KubeError as why:
        log.critical("%s", why)
        return COULD_NOT_LOOK
    except OSError as why:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        log.critical("VDI_METRICS_ADDR=%s: cannot listen there: %s", where, why)
        return FAILED
    except Exception:
        log.critical("ended by a fault of its own", exc_info=True)
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
