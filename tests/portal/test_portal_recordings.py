"""The list of recordings and the player in a real browser; `recording.mp4` is pixelflux' own,
without an index.
"""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from portal.portal_browser import visitor
from portal.portal_server import Server
from support.variants import first_of
from unit.gateway.ended_recording import save_recording
from unit.gateway.portal_stage import ADMIN

pytestmark = pytest.mark.timeout(120)

RECORDING = Path(__file__).with_name("recording.mp4")
_SEEK = """async () => {
  const video = document.querySelector('video');
  const done = (name) => new Promise((resolve) => video.addEventListener(name, resolve, { once: true }));
  if (video.readyState < 1) await done('loadedmetadata');
  video.currentTime = 3;
  await done('seeked');
  return [video.videoWidth, video.videoHeight, Math.round(video.duration), video.currentTime,
  video.error];
}"""


@pytest.mark.parametrize(("scheme", "width"), first_of([("light", 1280), ("dark", 390)]))
def test_recording_plays_and_is_sought(
    browser: Browser, server: Server, tmp_path: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    server.run(save_recording(server.stage.gateway, tmp_path, content=RECORDING.read_bytes()))
    with visitor(browser, server, ADMIN, size=(width, 860), scheme=scheme) as guest:
        guest.page.goto(f"{server.url}/recordings")
        guest.page.get_by_role("link", name="alice-desktop").click()
        assert guest.page.evaluate(_SEEK) == [1920, 1080, 4, 3, None]
        assert not [one for one in guest.complaints if "Permissions-Policy" not in one]
