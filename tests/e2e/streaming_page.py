"""A desktop's page from inside: what it hears and what the desktop hands it; and Selkies' protocol
without Selkies' page, since a page that hides a button is no lock.
"""

import base64
import math
import struct
import wave
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

# Runs before the page's own scripts: a meter beside every way to the loudspeaker, and a list of the
# documents that the page was handed to print.
PROBE = """(() => {
  const connect = AudioNode.prototype.connect, meters = [];
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode) {
      const meter = new AnalyserNode(this.context, {fftSize: 16384, smoothingTimeConstant: 0});
      connect.call(this, meter);
      meters.push(meter);
    }
    return connect.call(this, to, ...rest);
  };
  const printed = [];
  addEventListener('message', event => { if (event.data?.type === 'printDocument') printed.push(event.data.name); });
  window.vdiProbe = {meters, printed};
})()"""

_LOUDEST = """() => {
  let best = [0, -Infinity];
  for (const meter of window.vdiProbe.meters) {
    const levels = new Float32Array(meter.frequencyBinCount);
    meter.getFloatFrequencyData(levels);
    levels.forEach((level, bin) => {
      if (level > best[1]) best = [bin * meter.context.sampleRate / meter.fftSize, level];
    });
  }
  return best[1] > -70 ? best[0] : 0;
}"""

_RAW = """([display, width, height]) => new Promise((opened, failed) => {
  const address = new URL('/api/websockets', location.href);
  address.protocol = location.protocol.replace('http', 'ws');
  const socket = new WebSocket(address, ['selkies', 'selkies.token.ZWRnZQ']);
  socket.binaryType = 'arraybuffer';
  const texts = [], kinds = {}, pictures = {last: 0, at: 0, acknowledged: null};
  socket.onmessage = ({data}) => {
    if (typeof data !== 'string') {
      const bytes = new Uint8Array(data);
      kinds[bytes[0]] = (kinds[bytes[0]] ?? 0) + 1;
      if (bytes[0] === 4) Object.assign(pictures, {last: bytes[2] << 8 | bytes[3], at: Date.now()});
      return;
    }
    texts.push(data);
    if (data.includes('server_settings') && display) {
      const wanted = {displayId: display, initialClientWidth: width, initialClientHeight: height, tabId: 'raw'};
      socket.send('SETTINGS,' + JSON.stringify(wanted));
      opened();
    }
  };
  socket.onclose = ({code, reason}) => {
    texts.push(`closed ${code} ${reason}`);
    failed(new Error(texts.at(-1)));
  };
  window.vdiRaw = {socket, texts, kinds, pictures};
})"""


_ACKNOWLEDGE = """() => {
  const {socket, pictures} = window.vdiRaw;
  setInterval(() => socket.send(`CLIENT_FRAME_ACK ${pictures.acknowledged ?? pictures.last}`), 100);
}"""
_FALL_BEHIND = "() => { window.vdiRaw.pictures.acknowledged = window.vdiRaw.pictures.last }"
_CATCH_UP = "() => { window.vdiRaw.pictures.acknowledged = null }"


def heard(browser: DesktopBrowser) -> float:
    """The loudest frequency in Hz that the page plays now; 0: nothing louder than -70 dB."""
    return float(browser.page.evaluate(_LOUDEST))


def hears(browser: DesktopBrowser, frequency: float, seconds: float = 15.0) -> float:
    """Wait until the page plays that tone: what was heard, in Hz."""
    return wait_until(
        f"a tone of {frequency} Hz in the page",
        lambda: found if abs((found := heard(browser)) - frequency) < 12 else None,
        seconds,
    )


def printed(browser: DesktopBrowser) -> list[str]:
    """Names of the documents that the page was handed to print."""
    found: list[str] = browser.page.evaluate("() => window.vdiProbe.printed")
    return found


class Raw:
    """Selkies' protocol spoken by hand, with the cookies of a person who is in. See `raw`."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def send(self, *messages: str) -> None:
        """Send these, and wait until the server has read them: it answers `_gz,1` in turn."""
        before = self.texts().count("_gz,1")
        self._page.evaluate(
            "all => all.forEach(one => window.vdiRaw.socket.send(one))", [*messages, "_gz,1"]
        )
        wait_until("the messages were read", lambda: self.texts().count("_gz,1") > before)

    def send_bytes(self, *messages: bytes) -> None:
        """The same for binary messages."""
        words = [base64.b64encode(message).decode() for message in messages]
        script = (
            "all => all.forEach(one => window.vdiRaw.socket.send(Uint8Array.from(atob(one), c =>"
            " c.charCodeAt(0))))"
        )
        self._page.evaluate(script, words)
        self.send()

    def texts(self) -> list[str]:
        """The server's text messages, and how it closed."""
        found: list[str] = self._page.evaluate("() => window.vdiRaw.texts")
        return found

    def frames(self, kind: int) -> int:
        """The number of binary messages of this kind."""
        return int(self._page.evaluate("kind => window.vdiRaw.kinds[kind] ?? 0", kind))

    def last_picture(self) -> float:
        """When the last picture came, in seconds since 1970."""
        return float(self._page.evaluate("() => window.vdiRaw.pictures.at")) / 1000

    def acknowledge(self) -> None:
        """Say ten times a second, from now on, which picture was the last: as Selkies' page
        does.
        """
        self._page.evaluate(_ACKNOWLEDGE)

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Acknowledge no further picture, as a page on a slow machine or way, which `acknowledge`
        has made one.
        """
        self._page.evaluate(_FALL_BEHIND)
        try:
            yield
        finally:
            self._page.evaluate(_CATCH_UP)

    def reported(self, words: str, seconds: float = 10.0) -> str:
        """Wait for a message that has these words."""
        return wait_until(
            f"a message with {words!r}",
            lambda: next((text for text in self.texts() if words in text), None),
            seconds,
        )


@contextmanager
def raw(
    browser: DesktopBrowser, url: str, display: str = "primary", size: tuple[int, int] = (1280, 720)
) -> Iterator[Raw]:
    """A connection to the desktop at `url` of the person whose browser it is, without Selkies'
    page, that has joined a display. It owns it (and may size it) if no page is open.
    """
    page = browser.page.context.new_page()
    try:
        page.goto(f"{url}/api/health")
        wait_until("a connection by hand", lambda: _joins(page, [display, *size]), every=1.0)
        yield Raw(page)
    finally:
        page.close()


def _joins(page: Page, desired: list[str | int]) -> bool:
    """False if Selkies says to come later: from one address, here Traefik's, it takes two
    connections 0.5 s apart.
    """
    try:
        page.evaluate(_RAW, desired)
    except PlaywrightError as error:
        if "closed 4029" not in str(error):
            raise
        return False
    return True


def write_tone(file: Path, frequency: float, seconds: float = 4.0, rate: int = 48_000) -> None:
    """A WAV of beeps, 0.2 s each: a browser's noise suppression takes a tone that never ends for
    noise.
    """
    samples = array("h")
    for i in range(int(seconds * rate)):
        on = int(i / rate / 0.2) % 2 == 0
        samples.append(int(20_000 * math.sin(2 * math.pi * frequency * i / rate)) if on else 0)
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, rate, len(samples), "NONE", ""))
        out.writeframes(samples.tobytes())


def share_of(frequency: float, pcm: bytes, rate: int) -> float:
    """The share of the power of 16-bit mono samples at a frequency (a band of 20 Hz): 0 to 1."""
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    window = rate // 20
    total = at = 0.0
    for start in range(0, len(samples) - window + 1, window):
        part = samples[start : start + window]
        angle = 2 * math.pi * frequency / rate
        real = sum(value * math.cos(angle * i) for i, value in enumerate(part))
        imaginary = sum(value * math.sin(angle * i) for i, value in enumerate(part))
        at += 2 * (real * real + imaginary * imaginary) / window
        total += sum(value * value for value in part)
    return at / total if total else 0.0
