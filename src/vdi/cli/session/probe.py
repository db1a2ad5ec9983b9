"""`vdi session probe`: measures how fast a desktop answers; mounted by `commands`."""

import hashlib
import importlib.util
import secrets
from typing import Annotated

import msgspec
import typer

from vdi.cli.errors import COULD_NOT_LOOK, CliError
from vdi.cli.options import PROGRAM, examples
from vdi.cli.output import Output, columns, print_data
from vdi.cli.remote.client import GatewayClient, quote, tls
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.gateway_backend import GatewayBackend, GatewayTarget
from vdi.cli.session.target import with_backend
from vdi.latency_probe.client import DesktopAccess, StageError
from vdi.latency_probe.client import probe as probe_desktop
from vdi.latency_probe.mark import Mark
from vdi.latency_probe.measurements import Measurements, ProbeReport, evaluate

app = typer.Typer()


@app.command(epilog=examples("session probe alice-desktop", "session probe alice-desktop --keys 100 -o json"))
@with_backend
def probe(
    target: Target,
    name: Annotated[str, typer.Argument(help="Name of the session: a desktop of your own that runs.")],
    keys: Annotated[int, typer.Option(min=20, max=100, help="How many keys to press.")] = 40,
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TABLE,
) -> None:
    """Measure how fast a desktop answers: first picture, frames per second, input to picture, bitrate, lost frames.

    It goes the way a browser goes (portal, Traefik, TLS, WebSocket), decodes the pictures, and presses keys that no
    application gets; a small mark flickers in the upper left corner for some seconds. Nothing else is disturbed, and
    it does not count as use of the desktop. The gateway adds the figures to its metrics.

    Ends with 0 when 95 of 100 keys show their effect within 50 ms, with 1 when they do not or when there is no
    picture, with 3 when it could not be measured.
    """
    if not isinstance(target, GatewayTarget):
        raise CliError(
            "a probe goes the way people go, through a gateway, and this would go to a cluster:"
            f" {target.why}. Log in to the portal: {PROGRAM} login https://portal.DOMAIN",
            COULD_NOT_LOOK,
        )
    missing = [module for module in ("av", "websockets") if importlib.util.find_spec(module) is None]
    if missing:
        raise CliError(
            f"a probe needs {' and '.join(missing)}, not installed here: pip install 'vdi[probe]'", COULD_NOT_LOOK
        )

    async def work(backend: Backend) -> ProbeReport:
        assert isinstance(backend, GatewayBackend)  # noqa: S101 - for the type checker
        return await _measure(backend.client, name, keys)

    found = target.run(work)
    if output is Output.TABLE:
        for line in _lines(found):
            typer.echo(line)
    else:
        print_data(msgspec.to_builtins(found), output)
    if not found.within_goal:
        raise CliError(_over(found))


async def _measure(client: GatewayClient, name: str, keys: int) -> ProbeReport:
    state = secrets.token_urlsafe(32)
    address = f"/sessions/{quote(name)}/probe"
    begun = await client.send("POST", address, body={"state": hashlib.sha256(state.encode()).hexdigest()})
    url = str(begun["url"]).rstrip("/")
    access = DesktopAccess(url, begun["ticket"], state, msgspec.convert(begun["mark"], Mark))
    result = f"{address}/{quote(begun['id'])}"
    try:
        measurements = await probe_desktop(access, keys, tls(client.ca))
    except StageError as error:
        await client.send("PUT", result, body={"failed": error.stage})
        raise CliError(f"{name}: {error}") from error
    await client.send("PUT", result, body={"figures": msgspec.to_builtins(measurements)})
    return evaluate(name, url, measurements)


def _lines(found: ProbeReport) -> list[str]:
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


def _over(found: ProbeReport) -> str:
    lost = found.measurements.keys_without_effect
    if lost:
        return f"{lost} of the keys had no effect that could be seen in time"
    return f"over the goal: p95 is {_ms(found.p95_ms)}, and {found.goal_ms:.0f} ms are allowed"
