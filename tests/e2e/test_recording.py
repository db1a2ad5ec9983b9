"""Films of real desktops: made, stored, played in the portal; a pod that is killed, and a recorder that is stopped."""

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.desktops import reach, run_in, start, template
from e2e.world import World
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(420), pytest.mark.long]

RELEASE, GATEWAY = ("-n", "vdi-system"), "deployment/vdi-gateway"
ALWAYS = {"recording": {"mode": "Always", "ownerMayWatch": True}, "persistence": {"enabled": False}}
# Plays a film, seeks its end and its middle; two pictures of it that differ are no still.
_PLAY = """async () => {
  const video = document.querySelector('video');
  const done = (name) => new Promise((resolve) => video.addEventListener(name, resolve, { once: true }));
  if (video.readyState < 1) await done('loadedmetadata');
  const sums = [];
  for (const part of [0.05, 0.95, 0.5]) {
    video.currentTime = part * video.duration;
    await done('seeked');
    const canvas = new OffscreenCanvas(320, 180);
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 0, 320, 180);
    sums.push(context.getImageData(0, 0, 320, 180).data.reduce((sum, value) => sum + value, 0));
  }
  return { seconds: video.duration, sums };
}"""


@pytest.fixture
def recording(sessions: World) -> Iterator[World]:
    """The gateway keeps films, in the volume of its database."""
    made = "import pathlib; pathlib.Path('/data/films').mkdir(exist_ok=True)"
    sessions.kubectl(*RELEASE, "exec", GATEWAY, "--", "python", "-c", made)
    for value in ("VDI_RECORDINGS=/data/films", "VDI_RECORDINGS-"):
        sessions.kubectl(*RELEASE, "set", "env", GATEWAY, value)
        sessions.kubectl(*RELEASE, "rollout", "status", GATEWAY, "--timeout=120s")
        if value.endswith("films"):
            yield sessions


def film_state(world: World, name: str) -> str:
    status: dict[str, Any] = (world.get("vdi", name) or {}).get("status", {})
    return str(status.get("recording", {}).get("state", ""))


def test_films_outlive_a_killed_pod_and_are_played(recording: World) -> None:
    world = recording
    with template(world, "filmed", **ALWAYS):
        start(world, "nina", "filmed")
        wait_until("the film runs", lambda: film_state(world, "nina") == "On", seconds=30)
        with world.browser("nina") as browser:
            browser.open()
            browser.page.locator("#vdi-bar .handle", has_text="Recorded").wait_for(timeout=15_000)
            browser.open_terminal()
            browser.type("while :; do date +%N; sleep 0.3; done\n")
            browser.page.wait_for_timeout(20_000)
            assert run_in(world, "nina", "find /tmp -name 'film*' | wc -l").strip() == "0"
            pod = (world.get("vdi", "nina") or {})["status"]["podName"]
            world.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
            wait_until("a second film", lambda: film_state(world, "nina") != "On", seconds=60)
            wait_until("a second film", lambda: film_state(world, "nina") == "On", seconds=120)
            browser.page.wait_for_timeout(10_000)
            world.vdi("session", "suspend", "nina")
            reach(world, "nina", "Suspended")
            browser.page.wait_for_timeout(70_000)  # a film can be watched a minute after its end
            page = browser.page
            page.goto(f"{world.portal}/recordings")
            if "/login" in page.url:
                browser.log_in()
                page.goto(f"{world.portal}/recordings")
            films = [link.get_attribute("href") for link in page.locator("th a[href^='/recordings/']").all()]
            assert len(films) >= 2
            played = []
            for film in films:
                page.goto(f"{world.portal}{film}")
                played.append(page.evaluate(_PLAY))
            longest = max(played, key=lambda film: float(film["seconds"]))
            assert longest["seconds"] > 10
            assert len(set(longest["sums"])) > 1, played


def test_no_picture_while_the_recorder_is_silent(recording: World) -> None:
    world = recording
    with template(world, "filmed", **ALWAYS):
        start(world, "noah", "filmed")
        wait_until("the film runs", lambda: film_state(world, "noah") == "On", seconds=30)
        with world.browser("noah") as browser:
            browser.open()
            run_in(world, "noah", "pkill -STOP -f '[v]di-agent'")
            wait_until("it counts as unrecorded", lambda: film_state(world, "noah") == "Failed", seconds=40)
            browser.page.goto((world.get("vdi", "noah") or {})["status"]["url"])
            browser.page.get_by_text("Waiting for the recording").wait_for(timeout=15_000)
            run_in(world, "noah", "pkill -CONT -f '[v]di-agent'")
            wait_until("it is recorded again", lambda: film_state(world, "noah") == "On", seconds=40)
            browser.wait_for_picture()


def test_no_picture_where_no_film_is_kept(sessions: World) -> None:
    with template(sessions, "filmed", **ALWAYS):
        start(sessions, "emma", "filmed")
        wait_until("its film fails", lambda: film_state(sessions, "emma") == "Failed", seconds=30)
        with sessions.browser("emma") as browser:
            browser.log_in()
            browser.page.goto((sessions.get("vdi", "emma") or {})["status"]["url"])
            browser.page.get_by_text("the gateway does not store the film").wait_for(timeout=15_000)
