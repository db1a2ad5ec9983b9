"""The latency probe: `vdi session probe`, and the program of the chart's CronJob (`python -m vdi.cli.session.probe`).

The CronJob starts a desktop, measures it as the command does, and deletes it whatever happens:

    token of the ServiceAccount -> gateway's internal port -> API token of the user vdi-probe@vdi.invalid
    API token -> portal -> session `vdi-probe` -> Running -> measured -> deleted

It connects to Traefik's Service under the hosts' own names, so that it needs neither public DNS nor a way back into the
cluster. It does not verify Traefik's certificate, which the doctor checks: the token that it sends can start a desktop
of the probe's template only, and ends after minutes. If the Job is killed, the template's `maxTimeout` ends the
desktop.
"""

import asyncio
import hashlib
import importlib.util
import os
import secrets
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
from vdi.cli.gateway_client import GatewayClient, quote
from vdi.cli.options import PROGRAM
from vdi.cli.output import columns
from vdi.cli.progress import ProgressView
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.gateway_backend import GatewayBackend, GatewayTarget
from vdi.cli.session.operations import as_session
from vdi.cli.session.stages import Outcome, Start
from vdi.cli.session.wait import failure_message, watch_start
from vdi.cli.terminal import guarded_output
from vdi.http_client import HTTP_ERRORS, open_client, reason_of
from vdi.latency_probe.client import DesktopAccess, StageError
from vdi.latency_probe.client import probe as probe_desktop
from vdi.latency_probe.measurements import Mark, Measurements, ProbeReport, evaluate
from vdi.session.request import SessionRequest


def probe_session(target: Target, name: str, keys: int) -> ProbeReport:
    """Press `keys` keys in the desktop and look for their effect. Raises CliError."""

    if not isinstance(target, GatewayTarget):
        raise CliError(
            f"a probe connects through a gateway, as users do, but this command would use a cluster: {target.why}. "
            f"Log in to the portal: {PROGRAM} login https://portal.DOMAIN",
            COULD_NOT_LOOK,
        )
    missing = [module for module in ("av", "websockets") if importlib.util.find_spec(module) is None]
    if missing:
        raise CliError(
            f"a probe needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'vdi-kubernetes[probe]'",
            COULD_NOT_LOOK,
        )

    async def work(backend: Backend) -> ProbeReport:
        assert isinstance(backend, GatewayBackend)  # noqa: S101 - for the type checker
        return await measure_session(backend.client, name, keys)

    return target.run(work)


async def measure_session(client: GatewayClient, name: str, keys: int) -> ProbeReport:
    """Measure a running desktop; the gateway gets the result. Raises CliError."""
    state = secrets.token_urlsafe(32)
    address = f"/sessions/{quote(name)}/probe"
    begun = await client.send("POST", address, body={"state": hashlib.sha256(state.encode()).hexdigest()})
    url = str(begun["url"]).rstrip("/")
    access = DesktopAccess(url, begun["ticket"], state, msgspec.convert(begun["mark"], Mark), client.connect)
    result = f"{address}/{quote(begun['id'])}"
    try:
        measurements = await probe_desktop(access, keys, client.tls)
    except StageError as error:
        await client.send("PUT", result, body={"failed": error.stage})
        raise CliError(f"{name}: {error}") from error
    await client.send("PUT", result, body={"figures": msgspec.to_builtins(measurements)})
    return evaluate(name, url, measurements)


def report_lines(found: ProbeReport) -> list[str]:
    """The report as a table."""
    seen: Measurements = found.measurements
    counted = len(seen.input_to_photon_ms)
    lost_frames = f"{seen.frames_dropped} of {seen.frames + seen.frames_dropped} frames"
    lost_keys = f"{seen.keys_without_effect} of {counted + seen.keys_without_effect} keys"
    rows = [
        ["first picture", f"{seen.first_picture_seconds:.2f} s"],
        ["frames", f"{seen.frames_per_second:.1f} per second"],
        ["input to photon", f"p50 {_ms(found.p50_ms)}, p95 {_ms(found.p95_ms)}, of {counted} keys"],
        ["bitrate", f"{seen.bitrate_kbps:.0f} kbit/s"],
        ["lost", f"{lost_frames}, {lost_keys}"],
    ]
    return columns(["SESSION", found.session], [["through", found.through], *rows])


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def over_goal(found: ProbeReport) -> str:
    """Why the goal is missed."""
    lost = found.measurements.keys_without_effect
    if lost:
        return f"{lost} of the keys had no visible effect in time"
    return f"above the goal: p95 is {_ms(found.p95_ms)}, allowed: {found.goal_ms:.0f} ms"


SESSION = "vdi-probe"
KEYS = 40
# How long the desktop may take to start: a node may have to fetch its image.
START_SECONDS = 180.0
# Priority: on a full cluster users' desktops start first.
LAST_IN_QUEUE = -1000
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The variables that the chart sets."""

    # VDI_SERVER: URL of the portal.
    server: str
    # VDI_GATEWAY_URL: the gateway's internal port.
    internal: str
    # VDI_GATEWAY_TOKEN_FILE: token of the ServiceAccount for the audience `vdi-gateway`.
    token_file: Path
    # VDI_PROBE_CONNECT: HOST:PORT of Traefik.
    connect: str
    # VDI_PROBE_TEMPLATE.
    template: str


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
