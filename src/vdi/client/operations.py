"""Operations on a desktop, without I/O, for `Desktop` and `AsyncDesktop` alike."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from vdi.client.errors import KINDS, NotReady, Queued, Refused, TooManyRequests, Unreachable
from vdi.client.transport import Request, Steps, operation

T = TypeVar("T")
Button = Literal["left", "right", "middle"]
Direction = Literal["up", "down", "left", "right"]
Point = tuple[int, int]
_SESSIONS = "/api/v1/sessions"
# Seconds between two looks at a desktop that starts: doubled, so that 50 stay below a user's limit.
_FIRST_LOOK, _LAST_LOOK = 0.25, 10.0
_PNG = b"\x89PNG\r\n\x1a\n"


class _Metadata(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct):
    template: str


class _Queue(msgspec.Struct, rename="camel"):
    position: int | None = None
    earliest_slot: datetime | None = None
    reason: str = ""


class Status(msgspec.Struct):
    """`phase`: `Running` when the desktop can be used. `message`: what it waits for, or what failed."""

    phase: str = ""
    message: str = ""
    url: str = ""
    queue: _Queue | None = None


class DesktopInfo(msgspec.Struct):
    """State of a desktop, with fields of the REST API's session: `status.phase`, `spec.template`."""

    metadata: _Metadata
    spec: _Spec
    status: Status

    @property
    def name(self) -> str:
        return self.metadata.name


class ActionResult(msgspec.Struct):
    """Result of an action: a PNG of the screen, or a text, or neither."""

    png: bytes | None = None
    text: str | None = None


class CommandResult(msgspec.Struct, rename="camel"):
    """`exit_code`: None if killed at its time. `output`: the last 16,000 bytes of both outputs.
    `left_out`: bytes before them.
    """

    exit_code: int | None
    output: str
    left_out: int = 0


class _Page(msgspec.Struct):
    items: list[DesktopInfo]
    next: str | None = None


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""
    errors: tuple[dict[str, Any], ...] = ()


def _ask(request: Request, into: type[T]) -> Steps[T]:
    """The decoded response. Raises Refused, Unreachable."""
    response = yield request
    try:
        if 200 <= response.status < 300:
            return msgspec.json.decode(response.body or b"null", type=into)
        problem = msgspec.json.decode(response.body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(f"{request.path}, status {response.status}: {error}") from error
    retry = response.headers.get("Retry-After", "")
    raise KINDS.get(problem.code, Refused)(
        problem.code,
        problem.detail,
        response.status,
        problem.errors,
        float(retry) if retry.isascii() and retry.isdigit() else None,
    )


def _unreadable(why: str) -> Unreachable:
    return Unreachable(f"The response is not one of a portal; check its address ({why}).")


def _path(name: str, action: str = "") -> str:
    return f"{_SESSIONS}/{quote(name, safe='')}{action}"


def list_desktops() -> Steps[list[DesktopInfo]]:
    found: list[DesktopInfo] = []
    path = f"{_SESSIONS}?limit=500"
    page = yield from _ask(Request("GET", path), _Page)
    while page.next and page.items:
        found += page.items
        page = yield from _ask(Request("GET", f"{path}&cursor={quote(page.next)}"), _Page)
    return found + page.items


def create(template: str, name: str | None) -> Steps[str]:
    body = {"template": template} | ({"name": name} if name else {})
    return (yield from _ask(Request("POST", _SESSIONS, body), DesktopInfo)).name


def _act(name: str, action: str, **fields: Any) -> Steps[ActionResult]:
    request = Request("POST", _path(name, "/computer"), {"action": action, **fields})
    return (yield from _ask(request, ActionResult))


class CommandOperations:
    """Shell commands, where the template has `agents.run`."""

    name: str

    @operation
    def run(self, command: str, timeout: int = 10) -> Steps[CommandResult]:
        """Run a command as the desktop's user, and kill it after `timeout` seconds (1 to 45).

        Raises Refused: `conflict` if the template runs no commands.
        """
        body = {"command": command, "timeout": timeout}
        return (yield from _ask(Request("POST", _path(self.name, "/run"), body), CommandResult))


class RecordingOperations:
    """The recording of a desktop that is recorded on demand; not with a token of one desktop."""

    name: str

    @operation
    def start(self) -> Steps[None]:
        """Record from now on."""
        yield from _ask(Request("POST", _path(self.name, "/record"), {"on": True}), object)

    @operation
    def stop(self) -> Steps[None]:
        """End the recording."""
        yield from _ask(Request("POST", _path(self.name, "/record"), {"on": False}), object)


class DesktopOperations:
    """Coordinates are pixels of the screenshot, from its upper left corner. Actions raise
    HumanInControl while a person drives, and Refused with `fields` for an invalid value.
    """

    name: str

    @operation
    def info(self) -> Steps[DesktopInfo]:
        """Current state of the desktop."""
        return (yield from _ask(Request("GET", _path(self.name)), DesktopInfo))

    @operation
    def wait(self, seconds: float = 300) -> Steps[DesktopInfo]:
        """Wait until the desktop runs.

        Raises Queued or NotReady after `seconds`, NotReady at once if it failed, is suspended or
        ends.
        """
        delay, waited, look = 0.0, 0.0, _FIRST_LOOK
        while True:
            try:
                request = Request("GET", _path(self.name), delay=delay)
                found = yield from _ask(request, DesktopInfo)
            except TooManyRequests as error:
                if waited >= seconds:
                    raise
                delay = error.retry_after or _LAST_LOOK
            else:
                status = found.status
                if status.phase == "Running":
                    return found
                if waited >= seconds or status.phase not in ("", "Pending", "Creating"):
                    raise _not_ready(found)
                delay, look = look, min(2 * look, _LAST_LOOK)
            delay = min(delay, seconds - waited)
            waited += delay

    @operation
    def end(self) -> Steps[None]:
        """End the desktop. Its home is kept if its template keeps homes."""
        yield from _ask(Request("DELETE", _path(self.name)), object)

    @operation
    def act(self, action: Mapping[str, Any]) -> Steps[ActionResult]:
        """Any action of the REST API, such as `{"action": "zoom", "region": [0, 0, 640, 360]}`."""
        return (yield from _act(self.name, **action))

    @operation
    def screenshot(self) -> Steps[bytes]:
        """A PNG of the screen. With Pillow: `Image.open(BytesIO(desktop.screenshot()))`."""
        png = (yield from _act(self.name, "screenshot")).png
        if not png or not png.startswith(_PNG):
            raise _unreadable("screenshot")
        return png

    @operation
    def click(self, x: int, y: int, button: Button = "left") -> Steps[None]:
        yield from _act(self.name, f"{button}_click", coordinate=(x, y))

    @operation
    def double_click(self, x: int, y: int) -> Steps[None]:
        yield from _act(self.name, "double_click", coordinate=(x, y))

    @operation
    def move(self, x: int, y: int) -> Steps[None]:
        """Move the pointer."""
        yield from _act(self.name, "mouse_move", coordinate=(x, y))

    @operation
    def drag(self, start: Point, to: Point) -> Steps[None]:
        """Hold the left button from `start` to `to`, each `(x, y)`."""
        yield from _act(self.name, "left_click_drag", start_coordinate=start, coordinate=to)

    @operation
    def scroll(self, direction: Direction, amount: int = 5, at: Point | None = None) -> Steps[None]:
        """Turn the wheel by `amount` clicks (1 to 100), at `at` or where the pointer is."""
        where = {"coordinate": at} if at else {}
        wheel = {"scroll_direction": direction, "scroll_amount": amount}
        yield from _act(self.name, "scroll", **wheel, **where)

    @operation
    def type(self, text: str) -> Steps[None]:
        """Type up to 4,000 characters at the keyboard focus; a line break presses Return."""
        yield from _act(self.name, "type", text=text)

    @operation
    def key(self, keys: str, repeat: int = 1) -> Steps[None]:
        """Press keys by xdotool names (`Return`, `ctrl+s`), `repeat` times (1 to 50)."""
        yield from _act(self.name, "key", text=keys, repeat=repeat)

    @operation
    def request_human(self, message: str) -> Steps[None]:
        """Ask a person to act, in at most 200 characters. Until they give the desktop back, actions
        raise HumanInControl.
        """
        body = {"reason": message}
        yield from _ask(Request("POST", _path(self.name, "/human-request"), body), object)


def _not_ready(found: DesktopInfo) -> NotReady:
    status, queue = found.status, found.status.queue
    if queue is None:
        return NotReady(found.name, status.phase, status.message)
    place = (queue.position, queue.earliest_slot, queue.reason)
    return Queued(found.name, status.phase, status.message, *place)
