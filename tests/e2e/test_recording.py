"""Recordings of real desktops: made, stored, played in the portal; a pod that is killed, and a
recorder that is stopped.
"""

import base64
import io
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from playwright.sync_api import Page

from cluster.edge_traefik import free_port
from e2e.conftest import NAME
from e2e.desktops import PYTHON_ON_SCREEN, reach, run_in, start, started, status_of, template
from e2e.streaming_page import raw
from e2e.world import World
from support.s3_server import S3, s3_program
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser
from vdi.devcluster.layout import layout_of
from vdi.gateway.desktop.recording_limits import FULL
from vdi.session.naming import RECORDING_REFUSED

pytestmark = [pytest.mark.timeout(420), pytest.mark.long]

RELEASE, GATEWAY = ("-n", "vdi-system"), "deployment/vdi-gateway"
A_MARK = 0.8
ALWAYS: dict[str, Any] = {
    "recording": {"mode": "Always", "ownerMayWatch": True},
    "persistence": {"enabled": False},
}
# A recording's length in seconds, and its picture at a part of it, as a PNG.
_SEEK = """async (part) => {
  const video = document.querySelector('video');
  const done = (name) => new Promise((resolve) => video.addEventListener(name, resolve, { once: true }));
  if (video.readyState < 1) await done('loadedmetadata');
  video.currentTime = part * video.duration;
  await done('seeked');
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  return [video.duration, canvas.toDataURL('image/png').split(',')[1]];
}"""
# Grey over the whole screen, so that nothing else has a shape there.
_PLAIN = """
import time
from selkies.Xlib import X
from selkies.Xlib.display import Display

display = Display(":0")
screen = display.screen()
window = screen.root.create_window(
    0, 0, 8000, 8000, 0, screen.root_depth, X.InputOutput, X.CopyFromParent, override_redirect=1,
    background_pixel=0x808080,
)
window.map()
display.sync()
time.sleep(300)
"""
# A window that changes its colour 15 times a second.
_MOVING = """
import itertools
import time
from selkies.Xlib import X
from selkies.Xlib.display import Display

display = Display(":0")
screen = display.screen()
window = screen.root.create_window(
    0, 0, 600, 400, 0, screen.root_depth, X.InputOutput, X.CopyFromParent, override_redirect=1
)
window.map()
for number in itertools.count():
    window.change_attributes(background_pixel=number * 7919 % (1 << 24))
    window.clear_area()
    display.sync()
    time.sleep(1 / 15)
"""
# The threads of the recorder have its name, or were made just before those.
_STARVE = """
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

def threads(program):
    command = ["pgrep", "-f", f"^[^ ]*(python3 -IB [^ ]*)?{program}"]
    for pid in subprocess.run(command, capture_output=True, text=True).stdout.split():
        yield from map(int, os.listdir(f"/proc/{pid}/task"))

slow, fast = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
for _ in range(8):
    subprocess.Popen(
        ["timeout", "60", "taskset", "-c", str(slow), "sh", "-c", "while :; do :; done"]
    )
while True:
    selkies = list(threads("run-selkies"))
    named = [tid for tid in selkies if Path(f"/proc/{tid}/comm").read_text().strip() == "pf-recorder"]
    for tid in [*selkies, *threads("Xvfb")]:
        is_recorder = named and max(named) - 4 < tid <= max(named)
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(tid, {slow if is_recorder else fast})
            if is_recorder:
                os.sched_setscheduler(tid, os.SCHED_IDLE, os.sched_param(0))
    time.sleep(1)
"""


def likeness(picture: Image.Image, mark: Image.Image) -> float:
    """Correlation of the picture's middle with this mark over grey, at the best of the places about
    it.
    """
    grey = Image.new("RGBA", mark.size, (128, 128, 128, 255))
    expected = list(Image.alpha_composite(grey, mark).convert("L").tobytes())
    left, top = (picture.width - mark.width) // 2, (picture.height - mark.height) // 2
    found = []
    for x, y in itertools.product(range(left - 3, left + 4), range(top - 3, top + 4)):
        part = picture.crop((x, y, x + mark.width, y + mark.height)).convert("L").tobytes()
        found.append(statistics.correlation(expected, list(part)) if len(set(part)) > 1 else 0.0)
    return max(found)


@contextmanager
def recordings_in(world: World, place: str, variables: Mapping[str, str] = {}) -> Iterator[None]:
    """The gateway keeps recordings there."""

    def set_variables(*changes: str) -> None:
        world.kubectl(*RELEASE, "set", "env", GATEWAY, *changes)
        world.kubectl(*RELEASE, "rollout", "status", GATEWAY, "--timeout=120s")

    given = {"VDI_RECORDINGS": place, **variables}
    set_variables(*(f"{name}={value}" for name, value in given.items()))
    try:
        yield
    finally:
        set_variables(*(f"{name}-" for name in given))


@pytest.fixture
def recording(sessions: World) -> Iterator[World]:
    """The gateway keeps recordings, in the volume of its database."""
    made = "import pathlib; pathlib.Path('/data/recordings').mkdir(exist_ok=True)"
    sessions.kubectl(*RELEASE, "exec", GATEWAY, "--", "python", "-c", made)
    with recordings_in(sessions, "/data/recordings"):
        yield sessions


@contextmanager
def small_volume(world: World) -> Iterator[str]:
    """The gateway has a volume of 8 MiB at this path: its node's memory, whose size the kernel
    enforces.
    """
    place, spec = "/recordings", "/spec/template/spec"

    def patch(*changes: Mapping[str, Any]) -> None:
        world.kubectl(*RELEASE, "patch", GATEWAY, "--type", "json", "-p", json.dumps(changes))
        world.kubectl(*RELEASE, "rollout", "status", GATEWAY, "--timeout=120s")

    pod = json.loads(world.kubectl(*RELEASE, "get", GATEWAY, "-o", "json"))["spec"]["template"][
        "spec"
    ]
    lists: dict[str, tuple[list[Any], dict[str, Any]]] = {
        f"{spec}/volumes": (pod["volumes"], {"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}),
        f"{spec}/containers/0/volumeMounts": (
            pod["containers"][0]["volumeMounts"],
            {"mountPath": place},
        ),
    }
    patch(
        *(
            {"op": "add", "path": f"{at}/-", "value": {"name": "recordings", **value}}
            for at, (_, value) in lists.items()
        )
    )
    try:
        yield place
    finally:
        patch(
            *({"op": "remove", "path": f"{at}/{len(before)}"} for at, (before, _) in lists.items())
        )


def recording_state(world: World, name: str) -> str:
    return str(status_of(world, name).get("recording", {}).get("state", ""))


@contextmanager
def recorded(world: World, name: str, **spec: Any) -> Iterator[None]:
    """A desktop of this name whose recording runs."""
    with started(world, name, **ALWAYS, **spec):
        wait_for_recording(world, name)
        yield


def wait_for_recording(world: World, name: str, state: str = "On", seconds: float = 30.0) -> None:
    wait_until(f"the recording is {state}", lambda: recording_state(world, name) == state, seconds)


def suspend_and_open_recordings(world: World, name: str, browser: DesktopBrowser) -> None:
    world.vdi("session", "suspend", name)
    reach(world, name, "Suspended")
    browser.page.wait_for_timeout(70_000)  # a recording can be watched a minute after its end
    browser.page.goto(f"{world.portal}/recordings")
    if "/login" in browser.page.url:
        browser.log_in()
        browser.page.goto(f"{world.portal}/recordings")


def play(page: Page) -> tuple[float, set[str]]:
    """Length in seconds of the page's recording, and its pictures near the beginning, the end and
    the middle.
    """
    seen = [page.evaluate(_SEEK, part) for part in (0.05, 0.95, 0.5)]
    return seen[0][0], {picture for _, picture in seen}


def test_recordings_outlive_a_killed_pod_and_are_played(recording: World) -> None:
    world = recording
    with recorded(world, "nina"), world.browser("nina") as browser:
        browser.open()
        browser.page.locator("#vdi-bar .handle", has_text="Rec").wait_for(timeout=15_000)
        browser.open_terminal()
        browser.type("while :; do date +%N; sleep 0.3; done\n")
        browser.page.wait_for_timeout(20_000)
        assert run_in(world, "nina", "find /tmp -name 'recording*' | wc -l").strip() == "0"
        world.kubectl(
            "delete", "pod", status_of(world, "nina")["podName"], "--grace-period=0", "--force"
        )
        wait_until(
            "the recording has ended", lambda: recording_state(world, "nina") != "On", seconds=60
        )
        wait_for_recording(world, "nina", seconds=120)
        browser.page.wait_for_timeout(10_000)
        suspend_and_open_recordings(world, "nina", browser)
        page = browser.page
        recordings = [
            link.get_attribute("href") for link in page.locator("th a[href^='/recordings/']").all()
        ]
        assert len(recordings) >= 2
        played = []
        for address in recordings:
            page.goto(f"{world.portal}{address}")
            played.append(play(page))
        seconds, pictures = max(played, key=lambda length: length[0])
        assert seconds > 10
        assert len(pictures) > 1, "it is no still"


def test_watermark_is_read_from_stream_and_recording(recording: World) -> None:
    world = recording
    with recorded(world, "nina", watermark={"text": "seen by {user}", "position": "Middle"}):
        encoded = run_in(world, "nina", "base64 -w0 /tmp/.vdi/watermark.png")
        mark = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
        with world.browser("nina") as browser:
            browser.open()
            run_in(world, "nina", f"{PYTHON_ON_SCREEN} -c '{_PLAIN}' >/dev/null 2>&1 &")
            wait_until(
                "the mark is in the picture",
                lambda: likeness(browser.picture(), mark) > A_MARK,
                seconds=30,
            )
            # Another text of the same pixels is not taken for it.
            assert likeness(browser.picture(), ImageOps.mirror(mark)) < A_MARK / 2
            browser.page.wait_for_timeout(15_000)
            suspend_and_open_recordings(world, "nina", browser)
            page = browser.page
            page.locator(
                "th a[href^='/recordings/']"
            ).first.click()  # the newest: its screen has the browser's size
            last = base64.b64decode(page.evaluate(_SEEK, 0.95)[1])
            assert likeness(Image.open(io.BytesIO(last)).convert("RGB"), mark) > A_MARK


def test_recording_in_s3_is_played(sessions: World, tmp_path: Path) -> None:
    settings = layout_of(NAME).load()
    assert settings and settings.networks
    server = S3(
        s3_program(tmp_path / "logs"), tmp_path, f"{settings.networks.host_address}:{free_port()}"
    )
    with (
        server,
        recordings_in(sessions, "s3://recordings/desktops", server.variables),
        recorded(sessions, "olga"),
        sessions.browser("olga") as browser,
    ):
        wait_until("pieces are stored", lambda: len(server.keys) > 3, seconds=60)
        suspend_and_open_recordings(sessions, "olga", browser)
        browser.page.locator("th a[href^='/recordings/']").first.click()
        seconds, _ = play(browser.page)
        assert seconds > 2


def test_no_picture_while_the_recorder_is_silent(recording: World) -> None:
    world = recording
    with recorded(world, "noah"), world.browser("noah") as browser:
        browser.open()
        run_in(world, "noah", "pkill -STOP -f '[v]di-agent'")
        wait_for_recording(world, "noah", "Failed", 40)
        browser.page.goto(browser.url)
        browser.page.get_by_text("Waiting for the recording").wait_for(timeout=15_000)
        run_in(world, "noah", "pkill -CONT -f '[v]di-agent'")
        wait_for_recording(world, "noah", seconds=40)
        browser.wait_for_picture()


def test_recorder_without_cpu_ends_the_picture(recording: World) -> None:
    """The desktop's programs have its uid: they give its threads what others leave of one CPU, and
    the stream's the other.
    """
    world = recording
    with recorded(world, "nora"), world.browser("nora") as browser:
        browser.open()
        browser.page.goto(world.portal)  # a page that draws takes CPU
        with raw(browser, browser.url) as wire:
            wire.acknowledge()
            run_in(world, "nora", f"{PYTHON_ON_SCREEN} -c '{_MOVING}' >/dev/null 2>&1 &")
            wait_until("the stream moves", lambda: wire.frames(4) > 60, seconds=30)
            run_in(world, "nora", f"timeout 60 python3 -c '{_STARVE}' >/dev/null 2>&1 &")
            before, began = wire.frames(4), time.monotonic()
            wait_for_recording(world, "nora", "Failed", seconds=40)
            seconds = time.monotonic() - began
            assert (wire.frames(4) - before) / seconds > 5, "the stream goes on"
            wire.reported("closed 4002")
        browser.page.goto(browser.url)
        browser.page.get_by_text("Waiting for the recording").wait_for(timeout=15_000)
        browser.wait_for_picture(timeout_s=120)


def test_full_volume_ends_the_picture_until_there_is_space(sessions: World) -> None:
    world = sessions

    def in_gateway(*command: str) -> str:
        return world.kubectl(*RELEASE, "exec", GATEWAY, "--", *command, check=False)

    with (
        small_volume(world) as place,
        recordings_in(world, place),
        template(world, "recorded", **ALWAYS),
    ):
        assert "No space left on device" in in_gateway("dd", "if=/dev/zero", f"of={place}/ballast")
        start(world, "omar", "recorded")
        with world.browser("omar") as browser:
            browser.log_in()
            browser.page.goto(browser.url)
            browser.page.get_by_text("the gateway does not store").wait_for(timeout=30_000)
            session = world.get("vdi", "omar")
            assert session and session["metadata"]["annotations"][RECORDING_REFUSED] == FULL
            in_gateway("rm", f"{place}/ballast")
            browser.wait_for_picture()
            assert recording_state(world, "omar") == "On"


def test_no_picture_where_no_recording_is_kept(sessions: World) -> None:
    with started(sessions, "emma", **ALWAYS):
        wait_for_recording(sessions, "emma", "Failed")
        with sessions.browser("emma") as browser:
            browser.log_in()
            browser.page.goto(browser.url)
            browser.page.get_by_text("the gateway does not store").wait_for(timeout=15_000)
