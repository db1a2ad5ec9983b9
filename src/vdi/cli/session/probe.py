"""The latency probe: `vdi session probe`, and the program of the chart's CronJob (`python -m
vdi.cli.session.probe`).

The CronJob starts a desktop, measures it as the command does, and deletes it whatever happens:

    token of the ServiceAccount -> gateway's internal port -> API token of the user vdi-probe@vdi.invalid
    API token -> portal -> session `vdi-probe` -> Running -> measured -> deleted

It connects to Traefik's Service under the hosts' own names, so that it needs neither public DNS nor
a way back into the cluster. It does not verify Traefik's certificate, which the doctor checks: the
token that it sends can start a desktop of the probe's template only, and ends after minutes. If the
Job is killed, the template's `maxTimeout` ends the desktop.
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
from http import HTTPStatus
from pathlib import Path

import msgspec
import typer

from vdi.cli.errors import COULD_NOT_LOOK, CliError
from vdi.cli.gateway_client import GatewayClient, quote
from vdi.cli.output import columns
from vdi.cli.progress import ProgressView
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayBackend
from vdi.cli.session.operations import as_session
from vdi.cli.session.stages import Outcome, Start
from vdi.cli.session.target import gateway_of
from vdi.cli.session.wait import failure_message, watch_start
from vdi.cli.terminal import guarded_output
from vdi.http_client import HTTP_ERRORS, open_client, reason_of
from vdi.latency_probe.client import DesktopAccess, StageError
from vdi.latency_probe.client import probe as probe_desktop
from vdi.latency_probe.measurements import Mark, ProbeReport, evaluate
from vdi.session.request import SessionRequest

SESSION = "vdi-probe"
_KEYS = 40
_START_SECONDS = 180.0  # a node may have to pull the image
_LAST_IN_QUEUE = -1000  # priority: on a full cluster, users' desktops start first
_REQUEST_SECONDS = 20.0


def probe_session(target: Target, name: str, keys: int) -> ProbeReport:
    """Press `keys` keys in the desktop and measure their effect, for the command. Raises
    CliError.
    """
    what = "a probe connects through a gateway, as users do"
    gateway = gateway_of(target, what, COULD_NOT_LOOK)
    missing = []
    for module in ("av", "websockets"):
        if importlib.util.find_spec(module) is None:
            missing.append(module)
    if missing:
        raise CliError(
            f"a probe needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'}"
            " not installed: pip install 'vdi-kubernetes[probe]'",
            COULD_NOT_LOOK,
        )
    return gateway.run(lambda backend: measure_session(backend.client, name, keys))


async def measure_session(client: GatewayClient, name: str, keys: int) -> ProbeReport:
    """Measure a running desktop and report the result to the gateway. Raises CliError."""
    # The gateway gets the hash only: its ticket lets in nobody who does not have the state itself.
    state = secrets.token_urlsafe(32)
    address = f"/sessions/{quote(name)}/probe"
    begun = await client.send(
        "POST", address, body={"state": hashlib.sha256(state.encode()).hexdigest()}
    )
    url = str(begun["url"]).rstrip("/")
    access = DesktopAccess(
        url, begun["ticket"], state, msgspec.convert(begun["mark"], Mark), client.connect
    )
    result = f"{address}/{quote(begun['id'])}"
    try:
        measurements = await probe_desktop(access, keys, client.tls)
    except StageError as error:
        await client.send("PUT", result, body={"failed": error.stage})
        raise CliError(f"{name}: {error}") from error
    await client.send("PUT", result, body={"figures": msgspec.to_builtins(measurements)})
    return evaluate(name, url, measurements)


def report_lines(report: ProbeReport) -> list[str]:
    """The report as a table."""
    seen = report.measurements
    counted = len(seen.input_to_photon_ms)
    lost_frames = f"{seen.frames_dropped} of {seen.frames + seen.frames_dropped} frames"
    lost_keys = f"{seen.keys_without_effect} of {counted + seen.keys_without_effect} keys"
    rows = [
        ["first picture", f"{seen.first_picture_seconds:.2f} s"],
        ["frames", f"{seen.frames_per_second:.1f} per second"],
        [
            "input to photon",
            f"p50 {_ms(report.p50_ms)}, p95 {_ms(report.p95_ms)}, of {counted} keys",
        ],
        ["bitrate", f"{seen.bitrate_kbps:.0f} kbit/s"],
        ["lost", f"{lost_frames}, {lost_keys}"],
    ]
    return columns(["SESSION", report.session], [["through", report.through], *rows])


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def over_goal(report: ProbeReport) -> str:
    """The reason why the goal is missed."""
    lost = report.measurements.keys_without_effect
    if lost:
        return f"{lost} of the keys had no visible effect in time"
    return f"above the goal: p95 is {_ms(report.p95_ms)}, allowed: {report.goal_ms:.0f} ms"


class _Issued(msgspec.Struct):
    user: str
    token: str


async def run_probe(environ: Mapping[str, str], account: str, view: ProgressView) -> ProbeReport:
    """Start, measure, delete. Raises CliError when nothing was measured. `account`: token of the
    ServiceAccount.
    """
    # URL of the portal; HOST:PORT of Traefik.
    server = environ["VDI_SERVER"]
    connect = environ["VDI_PROBE_CONNECT"]
    user, token = await _log_in(environ["VDI_GATEWAY_URL"], account)
    async with GatewayClient(server, token=token, connect=connect) as client:
        backend = GatewayBackend(client, user)
        request = SessionRequest(
            user=user, template=environ["VDI_PROBE_TEMPLATE"], name=SESSION, priority=_LAST_IN_QUEUE
        )
        creation = asyncio.create_task(backend.create(request))
        try:
            session = as_session(await asyncio.shield(creation))
            start = Start(time.monotonic())
            await watch_start(backend, session, start=start, seconds=_START_SECONDS, view=view)
            if start.outcome is not Outcome.RUNNING:
                raise CliError(failure_message(start, SESSION, _START_SECONDS))
            return await measure_session(client, SESSION, _KEYS)
        finally:
            # The Job may be killed before the gateway has answered. The desktop is then created
            # nevertheless, so the answer is waited for, and the desktop deleted.
            await backend.remove(as_session(await creation), None)


async def _log_in(gateway: str, account: str) -> tuple[str, str]:
    """The probe's user and an API token, from the gateway's internal port."""
    headers = {"Authorization": f"Bearer {account}"}
    try:
        async with open_client(gateway, seconds=_REQUEST_SECONDS) as http:
            answer = await http.request("POST", f"{gateway}/internal/probe-token", headers=headers)
            if answer.status != HTTPStatus.OK:
                reason = answer.body.decode(errors="replace").strip()
                message = f"the gateway gives no token to the probe ({answer.status}): {reason}"
                raise CliError(message, COULD_NOT_LOOK)
            issued = answer.json(_Issued)
    except HTTP_ERRORS as error:
        raise CliError(f"cannot reach {gateway}: {reason_of(error)}", COULD_NOT_LOOK) from error
    return issued.user, issued.token


async def _run(account: str) -> ProbeReport:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    # The kubelet ends a pod with SIGTERM, at the Job's deadline too. The desktop is deleted before
    # the process ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with ProgressView() as view:
        return await run_probe(os.environ, account, view)


def main() -> int:
    """Run the CronJob's probe. Exit code 0 when the desktop was measured, whatever the figures
    are.
    """
    with guarded_output():
        return _measure()


def _measure() -> int:
    try:
        report = asyncio.run(_run(Path(os.environ["VDI_GATEWAY_TOKEN_FILE"]).read_text().strip()))
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
