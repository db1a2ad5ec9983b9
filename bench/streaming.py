"""`python -m bench.streaming`: input to photon in a real browser through gateway, Traefik and TLS,
beside the same desktop without them; then what one session costs in CPU and memory. With
`--wayland`, beside the same desktop on Wayland too; with `--recording`, beside the same desktop
while it is recorded, with the size of its recordings. On the demo's cluster (`make demo`), as root;
what it made is removed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import crowd, plain, podload, roundtrip, testcard
from bench.command import add_demo_options, positive
from bench.first_picture import CouldNotLookError, a_user, exit_status, where
from bench.photon import Window
from bench.processes import MACHINE_CPUS, cpu_seconds, machine_cpu_seconds
from bench.rows import add_json_option, write_rows
from bench.streaming_report import OURS, PLAIN, RECORDED, WAYLAND, Figures, table
from bench.template_copy import OnWayland, Recorded
from bench.ways import NAMESPACE, USER, Object, ThroughOperator, remove, until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.browser import Login
from vdi.devcluster import cluster, probe
from vdi.devcluster.binaries import ensure
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.layout import layout_of
from vdi.devcluster.progress import Progress
from vdi.kinds import SESSIONS
from vdi.kube.config import load_config
from vdi.kube.resource import CLAIMS, PODS
from vdi.kube.transport import Client
from vdi.session.children import CONTAINER
from vdi.session.naming import SESSION_LABEL, home_claim_name

SIZES = ((1280, 720), (1920, 1080))
SESSION = "stream"
DIRECT = "stream-plain"
ON_WAYLAND = "stream-wayland"
RECORDED_SESSION = "stream-recorded"
BUSY_SECONDS = 5.0
SETTLE_SECONDS = 5.0
GATEWAY = "deployment/vdi-gateway"
# Of images/desktop.
DISPLAY = ("DISPLAY=:0", "XAUTHORITY=/tmp/.vdi/Xauthority")

EXAMPLE = """\
examples:
  make demo && python -m bench.streaming     120 keys per size and way, about 6 minutes
  python -m bench.streaming --keys 30 --rounds 1 --seconds 5    a quick look
  python -m bench.streaming --recording      a recorded desktop too; the gateway keeps recordings
  meanwhile python -m bench.streaming --json FILE      every figure, too vdi demo up --no-scene &&
  python -m bench.streaming --crowd 1 3 5    how soon people see what they type on a busy node
"""


@dataclass(frozen=True)
class Place:
    """The cluster that is measured on, and this machine's view of it."""

    name: str
    kubeconfig: Path
    kubectl: Path
    # The node's address.
    node: str
    # Its process here.
    traefik: int


@dataclass(frozen=True)
class Door:
    """A way to a running desktop."""

    way: str
    url: str
    login: Login | None
    # Of the host in the URL.
    address: str

    def window(self, size: tuple[int, int]) -> Window:
        args = () if self.login else (f"--host-resolver-rules=MAP {plain.HOST} {self.address}",)
        return Window(self.url, self.login, width=size[0], height=size[1], args=args)


@dataclass(frozen=True)
class Desktops:
    """All, running."""

    # Ours first.
    doors: tuple[Door, ...]
    pod: str
    # Of the session's pod.
    uid: str
    recorded: Desktops | None = None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.streaming",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keys",
        type=positive,
        default=120,
        help="keys per size and way (120); with --crowd at most 100",
    )
    parser.add_argument(
        "--rounds", type=positive, default=4, help="turns in which they are typed (4)"
    )
    parser.add_argument("--pings", type=positive, default=500, help="round trips of each way (500)")
    parser.add_argument(
        "--seconds", type=positive, default=20, help="length of each measurement of CPU (20)"
    )
    add_demo_options(parser)
    parser.add_argument(
        "--wayland", action="store_true", help="as many keys on the same desktop on Wayland, too"
    )
    parser.add_argument(
        "--recording",
        action="store_true",
        help="as many on the same desktop recorded, and its costs",
    )
    parser.add_argument(
        "--crowd",
        type=positive,
        nargs="*",
        metavar="N",
        help=(
            "instead: N people who type beside a desktop with a moving picture, all on this"
            " node (3)"
        ),
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if options.crowd == []:
        options.crowd = [3]
    return options


def look(name: str, kubeconfig: Path, progress: Progress) -> Place:
    """The place to measure on. Raises CouldNotLookError without a Traefik, BinaryUnavailable
    without kubectl.
    """
    settings = layout_of(name).load()
    traefik = [
        component.pid
        for component in cluster.status(name).components
        if component.name == "traefik" and component.pid
    ]
    if settings is None or settings.networks is None or not traefik:
        raise CouldNotLookError(
            f"cluster {name!r} has no node with a Traefik: start one with `make demo`"
        )
    kubectl = ensure(["kubectl"], progress=progress)["kubectl"]
    return Place(name, kubeconfig, kubectl, settings.networks.node_address, traefik[0])


async def start(
    place: Place, template: str, login: Login, *, wayland: bool, recording: bool
) -> Desktops:
    """A session, the same desktop without our way in, and with `wayland` and `recording` the same
    in that way.

    Raises KubeError, RuntimeError, TimeoutError.
    """
    async with Client(load_config(place.kubeconfig), field_manager="vdi-bench") as client:
        session = ThroughOperator(client, template, login)
        await session.apply(SESSION)
        await session.ready(SESSION)
        label = f"{SESSION_LABEL}={SESSION}"
        [pod] = await client.list(PODS, namespace=NAMESPACE, label_selector=label, into=Object)
        direct = await plain.start(client, pod, DIRECT)
        doors = [
            Door(OURS, await session.url(SESSION), login, "127.0.0.1"),
            Door(PLAIN, direct.url, None, place.node),
        ]
        if wayland:
            other = OnWayland(client, login)
            await other.prepare(template)
            await other.apply(ON_WAYLAND)
            await other.ready(ON_WAYLAND)
            doors.append(Door(WAYLAND, await other.url(ON_WAYLAND), login, "127.0.0.1"))
        recorded = None
        if recording:
            desktop = Recorded(client, login)
            await desktop.prepare(template)
            await desktop.apply(RECORDED_SESSION)
            await until(
                client,
                SESSIONS,
                RECORDED_SESSION,
                lambda one: '"On"' in json.dumps(one.get("status", {}).get("recording")),
            )
            [own] = await client.list(
                PODS,
                namespace=NAMESPACE,
                label_selector=f"{SESSION_LABEL}={RECORDED_SESSION}",
                into=Object,
            )
            doors.append(Door(RECORDED, await desktop.url(RECORDED_SESSION), login, "127.0.0.1"))
            recorded = Desktops((doors[-1],), own["metadata"]["name"], own["metadata"]["uid"])
    return Desktops(tuple(doors), pod["metadata"]["name"], pod["metadata"]["uid"], recorded)


async def stop_others(place: Place, login: Login) -> None:
    """Remove the desktop without our way in, and that on Wayland."""
    async with Client(load_config(place.kubeconfig), field_manager="vdi-bench") as client:
        await plain.stop(client, DIRECT)
        wayland = OnWayland(client, login)
        await wayland.remove(ON_WAYLAND)
        await wayland.clear()


async def stop(place: Place, template: str, login: Login) -> None:
    """Remove everything, the home too."""
    await stop_others(place, login)
    async with Client(load_config(place.kubeconfig), field_manager="vdi-bench") as client:
        await ThroughOperator(client, template, login).remove(SESSION)
        recorded = Recorded(client, login)
        await recorded.remove(RECORDED_SESSION)
        await recorded.clear()
        home = home_claim_name(session_name=SESSION, user=USER, template=template, retain=True)
        await remove(client, CLAIMS, home)


def enter(window: Window) -> None:
    """Log in where that is asked for, and see the desktop. Raises NoPictureError."""
    if window.has_login:
        window.log_in()
    window.open()


def photons(doors: Sequence[Door], keys: int, rounds: int, progress: Progress) -> list[Figures]:
    """All keys: in each round every size and way, in turns about who goes first."""
    taken = []
    for number in range(rounds):
        share = keys // rounds + (number < keys % rounds)
        for size in SIZES:
            for door in doors if number % 2 == 0 else reversed(doors):
                named = f"{size[0]}x{size[1]}"
                with (
                    progress.step(f"{share} keys, {named}, {door.way}, round {number + 1}"),
                    door.window(size) as window,
                ):
                    enter(window)
                    got = window.photons(share)
                taken += [
                    {"way": door.way, "size": named, "round": number + 1, "ms": one} for one in got
                ]
    return taken


def socket_of(door: Door) -> roundtrip.Socket:
    """The WebSocket that the desktop's page opens, to be opened again without the page. Raises
    NoPictureError.
    """
    opened: list[str] = []
    with door.window(SIZES[0]) as window:
        window.page.on("websocket", lambda socket: opened.append(socket.url))
        enter(window)
        cookies = window.page.context.cookies(door.url.partition("#")[0])
    [url, *_] = [url for url in opened if "/websockets" in url]
    return roundtrip.Socket(
        door.way, url, door.address, {cookie["name"]: cookie["value"] for cookie in cookies}
    )


@contextmanager
def playing(place: Place, pod: str) -> Iterator[None]:
    """A moving picture on the desktop's whole screen while the context lasts. Raises
    RuntimeError.
    """
    text = Path(testcard.__file__).read_text()
    into: list[str | Path] = [
        "--kubeconfig",
        place.kubeconfig,
        "-n",
        NAMESPACE,
        "exec",
        "-i",
        pod,
        "-c",
        CONTAINER,
        "--",
    ]
    argv = [place.kubectl, *into, "env", *DISPLAY, "python3", "-c", text]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin and program.stdout and program.stderr
        try:
            if program.stdout.readline().strip() != b"playing":
                raise RuntimeError(
                    f"the moving picture did not start: {program.stderr.read().decode()[-500:]}"
                )
            yield
        finally:
            program.stdin.close()  # which ends it, and then kubectl


def measure_load(
    place: Place, uid: str, what: str, seconds: float, window: Window | None
) -> Figures:
    """CPU of the pod and of Traefik over that time, the memory at its end, and the frames that the
    browser showed.
    """
    mounts = probe.cgroup_mounts()
    time.sleep(SETTLE_SECONDS)
    before = podload.read(mounts, place.name, uid)
    traefik = cpu_seconds(place.traefik)
    begun = time.monotonic()
    frames = window.frames(seconds) if window else None
    if window is None:
        time.sleep(seconds)
    after, took = podload.read(mounts, place.name, uid), time.monotonic() - begun
    return {
        "what": what,
        "seconds": took,
        "pod_cpu_s": after.cpu_seconds - before.cpu_seconds,
        "traefik_cpu_s": cpu_seconds(place.traefik) - traefik,
        "working_set_mib": after.working_set_mib,
        "frames": frames,
    }


@contextmanager
def recordings_kept(place: Place) -> Iterator[None]:
    """A gateway that keeps recordings: in its database's volume meanwhile, unless its values have a
    place for them.

    Raises RuntimeError.
    """

    def kubectl(*arguments: str) -> str:
        argv: list[str | Path] = [
            place.kubectl,
            "--kubeconfig",
            place.kubeconfig,
            "-n",
            RELEASE_NAMESPACE,
            *arguments,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr[-500:]}")
        return done.stdout

    def keep(value: str) -> None:
        kubectl("set", "env", GATEWAY, value)
        kubectl("rollout", "status", GATEWAY, "--timeout=120s")

    if "VDI_RECORDINGS" in kubectl("get", GATEWAY, "-o", "jsonpath={..env[*].name}").split():
        yield
        return
    made = "import pathlib; pathlib.Path('/data/recordings').mkdir(exist_ok=True)"
    kubectl("exec", GATEWAY, "--", "python", "-c", made)
    keep("VDI_RECORDINGS=/data/recordings")
    try:
        yield
    finally:
        keep("VDI_RECORDINGS-")


def recording_bytes(window: Window, portal: str) -> int:
    """Size of all recordings of the recorded desktop, as its user can read it."""
    page = window.page.context.new_page()
    page.goto(portal)
    recordings = page.evaluate("() => fetch('/api/v1/recordings').then((answer) => answer.json())")[
        "items"
    ]
    page.close()
    return sum(
        recording["sizeBytes"] for recording in recordings if recording["name"] == RECORDED_SESSION
    )


def loads(
    place: Place, desktops: Desktops, seconds: float, progress: Progress, kind: str = ""
) -> list[Figures]:
    """A session without a viewer, watched at rest, and with a moving picture. `kind`: of a recorded
    one.
    """
    measured = []

    def measure(what: str, window: Window | None) -> None:
        login = desktops.doors[0].login if kind else None
        with progress.step(what):
            begun = time.monotonic()
            size = recording_bytes(window, login.portal) if window and login else 0
            measured.append(measure_load(place, desktops.uid, what, seconds, window))
            if window and login:
                grown = recording_bytes(window, login.portal) - size
                hours = (time.monotonic() - begun) / 3600
                measured[-1]["recording_mb_per_hour"] = grown / 1e6 / hours

    measure(f"{kind}nobody connected", None)
    for size in SIZES:
        named = f"{kind}{size[0]}x{size[1]}"
        with desktops.doors[0].window(size) as window:
            enter(window)
            measure(f"{named}, watched, at rest", window)
            with playing(place, desktops.pod):
                measure(f"{named}, watched, moving picture", window)
    return measured


def busy_percent() -> float:
    """How busy this machine is before the first desktop, in percent of all its CPUs."""
    used = machine_cpu_seconds()
    time.sleep(BUSY_SECONDS)
    return round(100 * (machine_cpu_seconds() - used) / (BUSY_SECONDS * MACHINE_CPUS), 1)


def measure(place: Place, login: Login, options: argparse.Namespace, progress: Progress) -> Figures:
    """Everything. Raises KubeError, NoPictureError, RuntimeError, TimeoutError; nothing is left
    behind.
    """
    machine: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "busy_percent": busy_percent(),
    }
    try:
        with progress.step("Start the desktops"):
            ways = {"wayland": options.wayland, "recording": options.recording}
            desktops = asyncio.run(start(place, options.template, login, **ways))
        seen = photons(desktops.doors, options.keys, options.rounds, progress)
        with progress.step(f"{options.pings} round trips of each way"):
            trips = asyncio.run(
                roundtrip.measure([socket_of(door) for door in desktops.doors[:2]], options.pings)
            )
        asyncio.run(stop_others(place, login))
        costs = loads(place, desktops, options.seconds, progress)
        if desktops.recorded:
            costs += loads(place, desktops.recorded, options.seconds, progress, "recorded, ")
    finally:
        asyncio.run(stop(place, options.template, login))
    return {"machine": machine, "photons": seen, "round_trips": trips, "loads": costs}


def measure_crowd(
    place: Place, login: Login, options: argparse.Namespace, progress: Progress
) -> int:
    taken = crowd.measure(
        place.name, place.kubeconfig, login, progress, template=options.template,
        sizes=options.crowd, keys=options.keys, playing=lambda pod: playing(place, pod),
    )  # fmt: skip
    print(crowd.table(taken, os.cpu_count() or 1))
    write_rows(options.json, taken)
    return 0


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: a run failed; 2: wrong command line; 3: there is no cluster or browser; 130:
    interrupted.
    """
    options = parse(arguments)

    def run() -> int:
        kubeconfig, portal = where(options.cluster)
        with Progress(default_cache(os.environ) / "logs") as progress:
            place = look(options.cluster, kubeconfig, progress)
            recordings = recordings_kept(place) if options.recording else nullcontext()
            with recordings, a_user(kubeconfig, portal) as login:
                if options.crowd:
                    return measure_crowd(place, login, options, progress)
                figures = measure(place, login, options, progress)
        print(table(figures))
        write_rows(options.json, figures)
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
