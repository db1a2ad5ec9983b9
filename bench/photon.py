"""Input to photon: from a key in the browser to the first video frame that shows what it did.

The clock is the page's own. It starts with the key's event, which a listener sees before Selkies'
page does, and stops in the video's frame callback, when the browser has a frame whose pixels differ
where the letter stands. So browser, network, X, the terminal, capture, encoder and decoder are in
it; keyboard and monitor, which are missing here, are not.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from vdi.demo.browser import DesktopBrowser, NoPictureError

# Keys at the start of a block that do not count: the page has just been opened.
WARM_UP = 5
LIMIT_MS = 2000
_LETTER_SECONDS = 30.0
# Between two keys: not a whole number of frames, so that no key meets the encoder always at the
# same moment.
REST_MS = (150, 250)
# Of 255 steps: an encoder's. The same in the page.
NOISE = 24
# Pixels by which an encoder may move a letter's edge.
SMEAR = 4
# Least changed pixels, most width and most height of a typed letter with its cursor.
LETTER = (12, 60, 48)

_FIRST_OF_ALL = """
window.vdiBench = {pressed: 0};
addEventListener('keydown', event => { vdiBench.pressed ||= event.timeStamp; }, true);
"""

_ARM = """([left, top, width, height, least, noise]) => {
  const video = document.querySelector('#videoStream, video#stream, video');
  const box = video.getBoundingClientRect();
  const across = video.videoWidth / box.width, down = video.videoHeight / box.height;
  const canvas = document.createElement('canvas');
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const look = () => {
    context.drawImage(video, (left - box.left) * across, (top - box.top) * down, width * across, height * down,
                      0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
  const before = look();
  vdiBench.pressed = 0;
  vdiBench.photon = new Promise(done => {
    const frame = () => {
      const seen = performance.now(), now = look();
      let changed = 0;
      for (let i = 0; i < now.length; i += 4)
        if (Math.abs(now[i] - before[i]) > noise || Math.abs(now[i + 1] - before[i + 1]) > noise
            || Math.abs(now[i + 2] - before[i + 2]) > noise) changed++;
      if (vdiBench.pressed && changed >= least) done(seen - vdiBench.pressed);
      else video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
  });
}"""

_PHOTON = """limit => Promise.race([
  vdiBench.photon, new Promise(done => setTimeout(done, limit, vdiBench.pressed ? null : -1))])"""

_FRAMES = """milliseconds => new Promise(done => {
  const video = document.querySelector('#videoStream, video#stream, video');
  let first = null, last = null;
  const frame = (_, about) => {
    first ??= about.presentedFrames;
    last = about.presentedFrames;
    video.requestVideoFrameCallback(frame);
  };
  video.requestVideoFrameCallback(frame);
  setTimeout(() => done(first === null ? 0 : last - first + 1), milliseconds);
})"""

Size = tuple[int, int]


@dataclass(frozen=True)
class Patch:
    """Where in the window a letter appears, and how much of it has changed when it is there."""

    left: int
    top: int
    width: int
    height: int
    least: int

    def is_near(self, other: Patch | None) -> bool:
        """Whether the other is the same letter's, but for what an encoder smears."""
        return (
            other is not None
            and max(abs(self.left - other.left), abs(self.top - other.top)) <= SMEAR
        )


def find_patch(before: Image.Image, after: Image.Image) -> Patch | None:
    """Where the two pictures differ, if it is no more than one letter of a terminal."""
    difference = (
        ImageChops.difference(before, after)
        .convert("L")
        .point(lambda value: 255 if value > NOISE else 0)
    )
    box, changed = difference.getbbox(), difference.histogram()[255]
    least, widest, highest = LETTER
    if box is None or changed < least or box[2] - box[0] > widest or box[3] - box[1] > highest:
        return None
    return Patch(box[0], box[1], box[2] - box[0], box[3] - box[1], max(1, changed // 3))


class Window(DesktopBrowser):
    """A browser on a desktop whose terminal has the keyboard, or gets it."""

    def __enter__(self) -> Window:
        super().__enter__()
        self.page.add_init_script(_FIRST_OF_ALL)
        return self

    def find_letter(self) -> Patch:
        """Type a letter and take it back, until it is seen where it stands. Opens the terminal when
        nothing comes.

        Raises NoPictureError.
        """
        deadline = time.monotonic() + _LETTER_SECONDS
        while time.monotonic() < deadline:
            before = self.picture()
            self.page.keyboard.press("x")
            self.page.wait_for_timeout(400)
            after = self.picture()
            self.page.keyboard.press("Backspace")
            self.page.wait_for_timeout(400)
            patch = find_patch(before, after)
            # What comes and goes with the key is the letter: the panel's clock has digits of that
            # size too.
            if patch and patch.is_near(find_patch(after, self.picture())):
                return patch
            if before.tobytes() == after.tobytes():
                self.open_terminal()
                self.page.wait_for_timeout(2000)
        raise NoPictureError(
            f"no letter was seen within {_LETTER_SECONDS:g} s of typing into the desktop's terminal"
        )

    def photons(self, count: int) -> list[float | None]:
        """So many keys, a letter and Backspace in turns: milliseconds each, None where nothing came
        in LIMIT_MS.

        Raises NoPictureError when there is no terminal, or the page gets no keys.
        """
        patch = self.find_letter()
        taken: list[float | None] = []
        for number in range(WARM_UP + count):
            self.page.evaluate(
                _ARM, [patch.left, patch.top, patch.width, patch.height, patch.least, NOISE]
            )
            self.page.keyboard.press("Backspace" if number % 2 else "x")
            milliseconds: Any = self.page.evaluate(_PHOTON, LIMIT_MS)
            if milliseconds == -1:
                raise NoPictureError("the page got no key event")
            taken.append(milliseconds)
            self.page.wait_for_timeout(random.uniform(*REST_MS))
        if len(taken) % 2:
            self.page.keyboard.press("Backspace")
        return taken[WARM_UP:]

    def frames(self, seconds: float) -> int:
        """How many frames the browser shows in that time."""
        shown: int = self.page.evaluate(_FRAMES, seconds * 1000)
        return shown
