"""What the probe's CronJob runs (`python -m vdi.cli.session.probe_job`): one desktop is started, measured and deleted.

    token of the ServiceAccount -> gateway's internal port -> API token of the user vdi-probe@vdi.invalid
    API token -> portal -> session `vdi-probe` -> Running -> `vdi session probe` -> deleted, whatever happens

It connects to Traefik's Service under the hosts' own names, so that it needs neither public DNS nor a way back into the
cluster. It does not verify Traefik's certificate, which is the doctor's concern: the token that it sends can start a
desktop of the probe's template, and ends after minutes. If the Job is killed, the template's `maxTimeout` ends the
desktop.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import msgspec
import typer

from vdi.cli.errors import COULD_NOT_LOOK, CliError
from vdi.cli.progress import ProgressView
from vdi.cli.remote.client import GatewayClient
from vdi.cli.session.gateway_backend import GatewayBackend
from vdi.cli.session.operations import as_session
from vdi.cli.session.probe import measure_session, over_goal, report_lines
from vdi.cli.session.stages import Outcome, Start
from vdi.cli.session.start import failure_message, watch_start
from vdi.cli.terminal import guarded_output
from vdi.http_client import HTTP_ERRORS, open_client, reason_of
from vdi.latency_probe.measurements import ProbeReport
from vdi.session.request import SessionRequest

SESSION = "vdi-probe"
KEYS = 40
START_SECONDS = 180.0
"""How long the desktop may take to start: a node may have to fetch its image."""
LAST_IN_QUEUE = -1000
"""Priority: on a full cluster users' desktops start first."""
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The variables that the chart sets."""

    server: str
    """VDI_SERVER: URL of the portal."""
    internal: str
    """VDI_GATEWAY_URL: the gateway's internal port."""
    token_file: Path
    """VDI_GATEWAY_TOKEN_FILE: token of the ServiceAccount for the audience `vdi-gateway`."""
    connect: str
    """VDI_PROBE_CONNECT: HOST:PORT of Traefik."""
    template: str
    """VDI_PROBE_TEMPLATE."""


class _Issued(msgspec.Struct):
    user: str
    token: str


def read_settings(environ: Mapping[str, str]) -> JobSettings:
    """Raises KeyError for a variable that is missing: the chart sets all of them."""
    return JobSettings(
        server=environ["VDI_SERVER"],
        internal=environ["VDI_GATEWAY_URL"],
        token_file=Path(environ["VDI_GATEWAY_TOKEN_FILE"]),
        connect=environ["VDI_PROBE_CONNECT"],
        template=environ["VDI_PROBE_TEMPLATE"],
    )


async def run_probe(settings: JobSettings, view: ProgressView) -> ProbeReport:
    """Start, measure, delete. Raises CliError when there is nothing measured."""
    user, token = await _log_in(settings)
    async with GatewayClient(settings.server, token=token, connect=settings.connect) as client:
        backend = GatewayBackend(client, user)
        request = SessionRequest(user=user, template=settings.template, name=SESSION, priority=LAST_IN_QUEUE)
        creation = asyncio.create_task(backend.create(request))
        try:
            session = as_session(await asyncio.shield(creation))
            start = Start(time.monotonic())
            await watch_start(backend, session, start=start, seconds=START_SECONDS, view=view)
            if start.outcome is not Outcome.RUNNING:
                raise CliError(failure_message(start, SESSION, START_SECONDS))
            return await measure_session(client, SESSION, KEYS)
        finally:
            # Also where the Job is killed before the gateway has answered: then the answer is waited for.
            await backend.remove(as_session(await creation), None)


async def _log_in(settings: JobSettings) -> tuple[str, str]:
    """The user, and an API token of theirs. Raises CliError."""
    headers = {"Authorization": f"Bearer {settings.token_file.read_text().strip()}"}
    try:
        async with open_client(settings.internal, seconds=_REQUEST_SECONDS) as http:
            answer = await http.request("POST", f"{settings.internal}/internal/probe-token", headers=headers)
            if answer.status != HTTPStatus.OK:
                reason = answer.body.decode(errors="replace").strip()
                message = f"the gateway gives no token to the probe ({answer.status}): {reason}"
                raise CliError(message, COULD_NOT_LOOK)
            issued = answer.json(_Issued)
    except HTTP_ERRORS as error:
        raise CliError(f"cannot reach {settings.internal}: {reason_of(error)}", COULD_NOT_LOOK) from error
    return issued.user, issued.token


async def _run(settings: JobSettings) -> ProbeReport:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    # The kubelet ends a pod so, at the Job's deadline too: the desktop is deleted first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with ProgressView() as view:
        return await run_probe(settings, view)


def main() -> int:
    """Exit code 0 when the desktop was measured, whatever the figures: those are in the metrics."""
    with guarded_output():
        return _measure()


def _measure() -> int:
    try:
        report = asyncio.run(_run(read_settings(os.environ)))
    except CliError as error:
        typer.echo(f"error: {error.message}", err=True)
        return error.exit_code
    except asyncio.CancelledError:
        typer.echo("error: ended before the desktop was measured", err=True)
        return COULD_NOT_LOOK
    for line in report_lines(report):
        typer.echo(line)
    if not report.within_goal:
        typer.echo(over_goal(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
