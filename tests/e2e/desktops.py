"""Templates, pools and sessions of the tests, and what their pods, agents and pictures show."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageChops, ImageStat

from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import API_VERSION
from vdi.demo.browser import DesktopBrowser, changed_pixels

DESKTOP_IMAGE = "localhost/vdi/desktop:dev"
# Yellow pixels of a notice's sign; there are 0 without one.
A_NOTICE = 300
# Pixels that a screenful of text changes at least; a cursor changes a tenth of it.
WRITTEN = 2_000
Object = dict[str, Any]

# In a desktop's shell: a Python that may draw on its screen, and has Selkies' Xlib for it.
PYTHON_ON_SCREEN = "DISPLAY=:0 XAUTHORITY=/tmp/.vdi/Xauthority /opt/selkies/bin/python3"

_ASK_POINTER = """
from selkies.Xlib.display import Display
pointer = Display().screen().root.query_pointer()
print(pointer.root_x, pointer.root_y)"""
_CALL_AGENT = """import json, sys, urllib.error, urllib.request as u
path, token, body = json.load(sys.stdin)
data = None if body is None else json.dumps(body).encode()
request = u.Request("http://127.0.0.1:8082" + path, data, {"Authorization": "Bearer " + token})
try:
    with u.urlopen(request) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())"""
# Parts of the width, beside where windows open, and of the height. Of our wallpaper in its right
# size the first is brighter; of one that is larger than the screen, as it is for a moment after a
# browser has made that smaller, the second.
_GLOW, _EDGE, _SKY = (0.80, 0.86), (0.94, 1.0), (0.12, 0.20)
# Of 255, on average: a plain ground has 0.
_BRIGHTER = 3.0
# Pixels: fewer than a line of text, more than a cursor that blinks.
_AT_REST = 100
# Pixels in a row and in a column of what `wait_for_scene` compares: a glyph, a third of the probe's
# mark.
_CELL = 16
# Pixels, from the bottom: the panel of our image.
_PANEL = 48
# Brightness of a cell, of 255: a coarse picture and the sharp one that follows it differ by less.
_CELL_CHANGED = 10


@contextmanager
def template(world: World, name: str, **spec: Any) -> Iterator[str]:
    """A template while the context lasts."""
    base = {"image": DESKTOP_IMAGE, "resources": {"defaultGPU": 0, "maxMemory": "4Gi"}}
    _apply(world, "VDITemplate", name, base | spec)
    try:
        yield name
    finally:
        world.kubectl("delete", "vditemplate", name, "--ignore-not-found")


def start(world: World, name: str, template: str, *words: str, wait: bool = True) -> Object:
    """A session, Running unless asked not to wait."""
    waiting = ("--wait",) if wait else ()
    world.vdi(
        "session",
        "create",
        name,
        "--user",
        f"{name}@example.com",
        "--template",
        template,
        *waiting,
        *words,
    )
    session = world.get("vdi", name)
    assert session
    return session


def create(world: World, template: str, groups: Mapping[str, Sequence[str]]) -> None:
    """A session for each name, all at once, as the gateway makes it for a user in these groups."""
    sessions = [
        {
            "apiVersion": API_VERSION,
            "kind": "VDISession",
            "metadata": {"name": name, "annotations": {"vdi.kasm.io/groups": json.dumps(of)}},
            "spec": {"user": f"{name}@example.com", "template": template},
        }
        for name, of in groups.items()
    ]
    world.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": sessions}),
    )


@contextmanager
def started(world: World, name: str, *, wait: bool = True, **spec: Any) -> Iterator[Object]:
    """A session of a template of its own, which has the same name and this spec, while the context
    lasts.
    """
    with template(world, name, **spec):
        yield start(world, name, name, wait=wait)


@contextmanager
def pool(world: World, template: str, replicas: int = 1, **spec: Any) -> Iterator[str]:
    """A pool of that template, with the template's name, while the context lasts."""
    _apply(world, "VDIPool", template, {"template": template, "replicas": replicas, **spec})
    try:
        yield template
    finally:
        world.kubectl("delete", "vdipool", template)


def _apply(world: World, kind: str, name: str, spec: Object) -> None:
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    world.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def wait_for_pool(world: World, name: str, seconds: float = 90.0) -> Object:
    """The pool's status once one desktop of it is ready."""

    def filled() -> Object | None:
        status = status_of(world, name, "vdipool")
        return status if status.get("ready") == 1 else None

    return wait_until("a desktop of the pool is ready", filled, seconds)


def status_of(world: World, name: str, kind: str = "vdi") -> Object:
    """The status of a session, or of another object; empty while there is none."""
    status: Object = (world.get(kind, name) or {}).get("status", {})
    return status


def message_of(world: World, name: str) -> str:
    """The message of the session's status."""
    return str(status_of(world, name).get("message", ""))


def pod_of(world: World, name: str) -> Object | None:
    """The session's pod, if there is one that no one deletes."""
    pods = world.items("pod", f"vdi.kasm.io/session={name}")
    return next((pod for pod in pods if "deletionTimestamp" not in pod["metadata"]), None)


def live_pod_of(world: World, name: str) -> Object:
    """The session's pod, which is there."""
    pod = pod_of(world, name)
    assert pod, f"{name} has no pod"
    return pod


def is_ready(pod: Object) -> bool:
    """Whether the API server shows the pod Ready, and no one deletes it."""
    ready = [one["status"] for one in pod["status"].get("conditions", ()) if one["type"] == "Ready"]
    return ready == ["True"] and "deletionTimestamp" not in pod["metadata"]


def address_of(node: Object) -> str:
    """The node's address in the cluster."""
    addresses = node["status"]["addresses"]
    return str(next(address["address"] for address in addresses if address["type"] == "InternalIP"))


def uid_of(world: World, name: str) -> str:
    """The uid of the session's pod."""
    return str(live_pod_of(world, name)["metadata"]["uid"])


def run_in(world: World, name: str, script: str) -> str:
    """Output of a shell script in the desktop."""
    return world.kubectl(
        "exec", live_pod_of(world, name)["metadata"]["name"], "--", "sh", "-c", script
    )


def log_of(world: World, name: str) -> str:
    """The log of the session's pod."""
    return world.kubectl("logs", live_pod_of(world, name)["metadata"]["name"])


def wait_for_panel(world: World, name: str) -> None:
    """Wait until applications have been started."""
    wait_until("the panel runs", lambda: run_in(world, name, "pgrep -x xfce4-panel || true"))


def home_claim_of(world: World, name: str) -> str:
    """The claim that the desktop mounts as its home."""
    volumes = live_pod_of(world, name)["spec"]["volumes"]
    (claim,) = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes
        if volume["name"] == "home"
    ]
    return str(claim)


def pointer_of(world: World, name: str) -> tuple[int, int]:
    """The position of the desktop's pointer, in pixels from the left and from the top."""
    x, y = run_in(world, name, f"{PYTHON_ON_SCREEN} -c '{_ASK_POINTER}'").split()
    return int(x), int(y)


def token_of(world: World, name: str, key: str) -> str:
    """A token of the session's Secret: `password` is the gateway's at Selkies, `agentToken` the
    operator's.
    """
    (secret,) = world.items("secret", f"vdi.kasm.io/session={name}")
    return base64.b64decode(secret["data"][key]).decode()


def call_agent(world: World, name: str, path: str, body: Object | None = None) -> tuple[int, str]:
    """Status and body of the agent's response: to a POST, if there is a body."""
    asked = json.dumps((path, token_of(world, name, "agentToken"), body))
    pod = live_pod_of(world, name)["metadata"]["name"]
    status, _, text = world.kubectl(
        "exec", "-i", pod, "--", "python3", "-c", _CALL_AGENT, stdin=asked
    ).partition(" ")
    return int(status), text.strip()


def ask_agent(world: World, name: str) -> Object:
    """The agent's response to `GET /activity`."""
    status, text = call_agent(world, name, "/activity")
    assert status == 200, text
    said: Object = json.loads(text)
    return said


def reach(world: World, name: str, phase: str, words: str = "", seconds: float = 60.0) -> Object:
    """Wait until the session is in that phase, and its message has these words."""
    last: Object = {}

    def look() -> Object | None:
        session = world.get("vdi", name) or {}
        last.update(status := session.get("status", {}))
        return (
            session if status.get("phase") == phase and words in status.get("message", "") else None
        )

    try:
        return wait_until(f"{name} is {phase} {words!r}", look, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {last}") from None


def condition(world: World, name: str, kind: str) -> Object | None:
    """The condition of this type, if the session has it."""
    found = status_of(world, name).get("conditions", [])
    return next((one for one in found if one["type"] == kind), None)


def notice_pixels(picture: Image.Image) -> int:
    """Yellow pixels where Xfce puts notices, in the upper right corner: of their warning sign.

    Not their dark ground: before the wallpaper is drawn, all is dark.
    """
    corner = picture.crop((picture.width // 2, 0, picture.width, picture.height // 4)).convert(
        "RGB"
    )
    red, green, blue = (list(band.tobytes()) for band in corner.split())
    return sum(r > 200 and g > 140 and b < 120 for r, g, b in zip(red, green, blue, strict=True))


def wait_for_notice(browser: DesktopBrowser, *, shown: bool, seconds: float) -> None:
    """Wait until there is a notice in the picture, or none."""

    def look() -> bool:
        browser.page.wait_for_timeout(100)
        return (notice_pixels(browser.picture()) > A_NOTICE) is shown

    wait_until(f"a notice in the picture: {shown}", look, seconds)


def picture_at_rest(browser: DesktopBrowser) -> Image.Image:
    """The picture once it stays as it is: a stream's first pictures are coarse, and become sharp in
    some steps.

    The wallpaper has to be there, and in the screen's size: what is there before is at rest as
    well, and was seen to stay for 41 s after the screen had become smaller (docs/compatibility.md).
    """
    last = browser.picture()

    def at_rest() -> bool:
        nonlocal last
        browser.page.wait_for_timeout(500)
        before, last = last, browser.picture()
        return _has_wallpaper(last) and changed_pixels(before, last) < _AT_REST

    wait_until("the picture is at rest", at_rest)
    return last


def _has_wallpaper(picture: Image.Image) -> bool:
    def brightness(left: float, right: float) -> float:
        above, below = (round(part * picture.height) for part in _SKY)
        part = picture.crop(
            (round(left * picture.width), above, round(right * picture.width), below)
        )
        return float(ImageStat.Stat(part.convert("L")).mean[0])

    return brightness(*_GLOW) - brightness(*_EDGE) > _BRIGHTER


def wait_for_scene(browser: DesktopBrowser, scene: Image.Image, what: str, seconds: float) -> None:
    """Wait until the browser shows this scene again, as coarse or sharp as its stream is then.

    Compares the mean brightness of cells, since an encoder may make a picture sharper at any time,
    and leaves out the panel: the text of its clock changes its width with the minute.
    """
    rest = _cells(scene)
    box: tuple[int, int, int, int] | None = None
    now = rest

    def as_before() -> bool:
        nonlocal box, now
        now = _cells(browser.picture())
        difference = ImageChops.difference(rest, now)
        box = difference.point(lambda value: 255 if value > _CELL_CHANGED else 0).getbbox()
        return box is None

    try:
        wait_until(what, as_before, seconds)
    except AssertionError as error:
        error.add_note(
            f"What differs is in this box (left, top, right, bottom, in cells of {_CELL} pixels):"
            f" {box}"
        )
        error.add_note(
            f"Darkest and brightest cell, then: {rest.getextrema()}, now: {now.getextrema()}"
        )
        raise


def _cells(picture: Image.Image) -> Image.Image:
    above = picture.crop((0, 0, picture.width, picture.height - _PANEL))
    return above.convert("L").resize(
        (above.width // _CELL, above.height // _CELL), Image.Resampling.BOX
    )


def writes(browser: DesktopBrowser, command: str) -> None:
    """Type a command, and wait until its output is in the picture."""
    before = browser.picture()
    browser.type(f"{command}\n")
    browser.wait_for_change(before, pixels=WRITTEN)


def wait_until_cut_off(watcher: DesktopBrowser, owner: DesktopBrowser) -> None:
    """Wait until the watcher's picture stays as it is while the owner writes."""

    def stands_still() -> bool:
        writes(owner, "clear")
        before = watcher.picture()
        writes(owner, "yes MMMMMMMMMMMMMMMM | head -99")
        return changed_pixels(before, watcher.picture()) < WRITTEN

    wait_until("the watcher's picture has stopped", stands_still)
