"""The program `python -m vdi.gateway`, which `vdi gateway run` executes: settings, logging, exit
codes.
"""

import logging
import os
import sys
from pathlib import Path

from vdi.gateway.app import run_process
from vdi.gateway.limits import LimitsError
from vdi.gateway.settings import read_settings
from vdi.gateway.store.database import DatabaseUrlError
from vdi.gateway.store.migrations import UnknownRevisionError
from vdi.kube.config import load_config
from vdi.kube.errors import KubeError
from vdi.process import set_up_logging
from vdi.settings import SettingsError

log = logging.getLogger("vdi.gateway")

# Exit codes, those of `vdi`.
DONE, FAILED, USAGE, COULD_NOT_LOOK = range(4)


def main() -> int:
    """Run until SIGTERM or Ctrl-C. Reads VDI_KUBECONFIG, VDI_CONTEXT and the variables of the
    settings.
    """
    try:
        settings = read_settings(os.environ)
    except SettingsError as why:
        print(f"Error: {why}", file=sys.stderr)  # noqa: T201 - how to log is not known yet
        return USAGE
    set_up_logging(settings.log_level, settings.log_format)
    for noisy in ("httpx", "httpcore", "aiosqlite", "uvicorn", "alembic"):
        # They log whole URLs, response headers and the parameters of statements, and with these
        # secrets.
        logging.getLogger(noisy).setLevel(logging.WARNING)
    kubeconfig, context = os.environ.get("VDI_KUBECONFIG"), os.environ.get("VDI_CONTEXT")
    try:
        run_process(
            load_config(Path(kubeconfig) if kubeconfig else None, context or None), settings
        )
    except (LimitsError, DatabaseUrlError) as why:
        log.critical("%s", why)
        return USAGE
    except KubeError as why:
        log.critical("%s", why)
        return COULD_NOT_LOOK
    except OSError as why:
        log.critical("%s", why)
        return FAILED
    except Exception as why:
        newer = _among(why, UnknownRevisionError)
        if newer is None:
            log.critical("ended by a fault of its own", exc_info=True)
        else:
            log.critical("VDI_DATABASE_URL: %s", newer)
        return FAILED
    return DONE


def _among(error: BaseException, kind: type[Exception]) -> BaseException | None:
    """The error of this kind that a task has failed with, if any."""
    if isinstance(error, BaseExceptionGroup):
        return next(
            (cause for exception in error.exceptions if (cause := _among(exception, kind))), None
        )
    return error if isinstance(error, kind) else None


if __name__ == "__main__":
    sys.exit(main())
