"""Measures how fast a desktop answers, for `vdi session probe`. Imported by that command alone: it takes long."""

import hashlib
import importlib.util
import secrets

import msgspec

from vdi.cli.errors import COULD_NOT_LOOK, CliError
from vdi.cli.options import PROGRAM
from vdi.cli.output import columns
from vdi.cli.remote.client import GatewayClient, quote
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.gateway_backend import GatewayBackend, GatewayTarget
from vdi.latency_probe.client import DesktopAccess, StageError
from vdi.latency_probe.client import probe as probe_desktop
from vdi.latency_probe.mark import Mark
from vdi.latency_probe.measurements import Measurements, ProbeReport, evaluate


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
