"""Programs that drive desktops ("computer use"), and the people who take over from them and give
back.

REST API and MCP call `Computer.act`. An action goes to the agent in the desktop, which hands it to
pixelflux. One actor drives at a time, as the shared state has it, and none while a person has taken
over, or is asked to: an annotation of the session has that, which outlives the gateway.

The desktop's response is untrusted input: bounded, and a picture is passed on by the size in its
header, never decoded.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from math import ceil
from typing import Annotated, Literal, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.api.template import Agents
from vdi.gateway.cluster_cache import STALE
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, refused_by_cluster
from vdi.gateway.desktop.agent import WINDOW_SECONDS, DesktopAgent, count_in_window
from vdi.gateway.in_flight import ACTION_ANSWER_BYTES, ACTIONS
from vdi.gateway.login.logins import Logins
from vdi.gateway.notices import HUMAN_REQUESTED, Notice, Notices
from vdi.gateway.rights import Actor, Driver, enables_agents, is_token, refuse_to_drive, taken_by
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.audit import DONE, FAILED, Audit, act_on
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.history import add_agent_minute
from vdi.http_client import BadResponseError, Response
from vdi.kinds import SESSIONS
from vdi.kube.errors import KubeError
from vdi.printable import escape, shorten
from vdi.session.alerts import AnnouncedEnd, announced_end
from vdi.session.naming import DRIVER
from vdi.session.recording import refuse_picture
from vdi.session.status import is_running
from vdi.session.users import normal_user

T = TypeVar("T")
# Actions of one session in a window, over all replicas and actors.
MAX_ACTIONS = 600
# An actor drives for so long after each action; another one is refused meanwhile.
DRIVES_SECONDS = 30.0
# Notices of one owner's agents that ask for a person, and the seconds in which they are counted.
MAX_HUMAN_REQUESTS, HUMAN_SECONDS = 20, 3600
MAX_TEXT, MAX_SECONDS, MAX_REASON = 4000, 60, 200
MAX_SIDE = 4096
# Many clients give up on a call after a minute.
MAX_RUN_SECONDS = 45
# Time beside that of the action itself.
_ANSWER_SECONDS, _CHARACTERS_PER_SECOND = 20.0, 40
# Refusals that the audit counts: the gateway's own, before anything reaches the desktop.
_REFUSED = frozenset({"Forbidden", "Conflict", "HumanInControl", "Parked", "TooManyRequests"})
# Changes of who drives: their rows are there before the answer.
_OF_DRIVERS = frozenset({"request_human", "take_over", "give_back"})
_OUTPUT = 16 << 10
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

_Pixel = Annotated[int, Meta(ge=0, le=16384)]
_Point = Annotated[tuple[_Pixel, ...], Meta(min_length=2, max_length=2)]
# fmt: off
_Kind = Literal[
    "screenshot", "zoom", "cursor_position", "wait", "key", "hold_key", "type", "scroll", "mouse_move",
    "left_click", "right_click", "middle_click", "double_click", "triple_click",
    "left_click_drag", "left_mouse_down", "left_mouse_up",
]
# fmt: on
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "zoom": ("region",),
    "wait": ("duration",),
    "key": ("text",),
    "hold_key": ("text", "duration"),
    "type": ("text",),
    "scroll": ("scroll_direction", "scroll_amount"),
    "mouse_move": ("coordinate",),
    "left_click_drag": ("coordinate",),
}

# Names that pixelflux 2.2.1 has for them. It leaves out any other, such as Control_L.
_MODIFIERS = ("ctrl", "shift", "alt", "super", "meta")


class ComputerAction(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One action, in the shape of Anthropic's tool `computer_20251124`."""

    action: Annotated[_Kind, doc("Kind of action.")]
    coordinate: Annotated[_Point | None, doc("`[x, y]` from the upper left corner, in pixels.")] = (
        None
    )
    start_coordinate: Annotated[_Point | None, doc("Where `left_click_drag` begins.")] = None
    region: Annotated[
        Annotated[tuple[_Pixel, ...], Meta(min_length=4, max_length=4)] | None,
        doc("For `zoom`: `[left, top, right, bottom]`."),
    ] = None
    text: Annotated[
        Annotated[str, Meta(max_length=MAX_TEXT)] | None,
        doc(
            "Text to type; keys such as `ctrl+s` for `key`; the key for `hold_key`; a modifier held"
            " during a click or scroll."
        ),
    ] = None
    duration: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None,
        doc("Seconds for `wait` and `hold_key`."),
    ] = None
    scroll_direction: Annotated[
        Literal["up", "down", "left", "right"] | None, doc("Direction of `scroll`.")
    ] = None
    scroll_amount: Annotated[
        Annotated[int, Meta(ge=0, le=100)] | None, doc("Clicks of the wheel.")
    ] = None
    repeat: Annotated[
        Annotated[int, Meta(ge=1, le=50)], doc("How often; each one counts as an action.")
    ] = 1

    def __post_init__(self) -> None:
        required = _REQUIRED.get(self.action, ())
        missing = [name for name in required if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.action} requires {' and '.join(missing)}")
        held = (self.text or "").split("+")
        if self.action in ("key", "hold_key"):
            held.pop()  # the key itself, which the desktop knows
        elif self.action == "type" or not self.text:
            held.clear()
        for name in held:
            if name.strip().lower() not in _MODIFIERS:
                allowed = f"{', '.join(_MODIFIERS)}, and plus for the key +"
                raise ValueError(f"text: {name[:20]!r} is no modifier; allowed: {allowed}")
        if self.repeat * (self.duration or 0) > MAX_SECONDS:
            raise ValueError(f"repeat x duration is more than {MAX_SECONDS} seconds")


class _Answer(msgspec.Struct):
    """pixelflux's response, and that of the agent in the desktop. `data`: the base64 of a PNG, with
    its quotes.

    A view on the response, which goes into ours as it is: decoded, each picture would be in memory
    three times.
    """

    data: msgspec.Raw = msgspec.Raw(b'""')
    text: str = ""
    error: str = ""
    seconds: Annotated[float, Meta(ge=0, le=600)] = 0


class CommandResult(msgspec.Struct, rename="camel"):
    """The end of a command."""

    exit_code: Annotated[int | None, doc("null: it was killed at its time.")]
    output: Annotated[str, doc("The last 16,000 bytes of its output.")]
    left_out: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)], doc("Bytes of output before these.")
    ] = 0


@dataclass(slots=True)
class _Attempt:
    """An action of a program or person, and details for its row in the audit."""

    session: VDISession
    agents: Agents
    detail: dict[str, str]
    # Whether the desktop has done it, at least once.
    is_done: bool = False


@dataclass(eq=False, kw_only=True)
class Computer:
    """Actions of programs in desktops, and who drives. Every method raises ActionDenied."""

    context: GatewayContext
    agent: DesktopAgent
    audit: Audit
    logins: Logins
    notices: Notices

    async def act(
        self,
        by: Actor,
        name: str,
        action: ComputerAction | Mapping[str, object],
        until_read: AsyncExitStack | None = None,
    ) -> msgspec.Raw | str:
        """The PNG or the text, empty without one, of an action that is done as often as its
        `repeat` says.

        A PNG is its base64 as JSON. `until_read`: closed when the client has read it; until then
        the desktop takes no further action.
        """
        try:
            wanted = msgspec.convert(action, ComputerAction, from_attributes=True)
        except msgspec.ValidationError as error:
            raise ActionDenied(
                "Invalid", f"The action is not valid: {_clean(str(error))}."
            ) from error
        body = msgspec.to_builtins(wanted)
        body.pop("repeat", None)
        typing = len(wanted.text or "") / _CHARACTERS_PER_SECOND
        seconds = _ANSWER_SECONDS + (wanted.duration or 0) + typing
        async with self._audited(by, name, wanted.action) as attempt:
            detail = attempt.detail
            detail |= _describe(body, record_text=attempt.agents.record_text)
            if wanted.repeat > 1:
                detail["repeat"] = str(wanted.repeat)
            for _ in range(wanted.repeat):
                answer = _Answer()
                if until_read:
                    await until_read.aclose()  # the answer before this one is gone
                answer = await self._ask(
                    by,
                    attempt,
                    "/computer-use",
                    body,
                    seconds=seconds,
                    into=_Answer,
                    until_read=until_read,
                )
            picture = _decode(answer.data, name)
            if not picture:
                return _clean(answer.text)
            _check_png(picture, name)
            detail["sha256"] = sha256(picture).hexdigest()
        return answer.data

    async def run(
        self,
        by: Actor,
        name: str,
        command: str,
        seconds: int,
        until_read: AsyncExitStack | None = None,
    ) -> CommandResult:
        """Run a command as the desktop's user."""
        async with self._audited(by, name, "run") as attempt:
            if not attempt.agents.run:
                message = (
                    f"No commands are run in {name!r}: its template does not have spec.agents.run."
                )
                raise ActionDenied("Conflict", message)
            attempt.detail |= _describe({"text": command}, record_text=attempt.agents.record_text)
            body = {"command": command, "seconds": seconds}
            longest = _ANSWER_SECONDS + seconds
            ran = await self._ask(
                by,
                attempt,
                "/run",
                body,
                seconds=longest,
                into=CommandResult,
                until_read=until_read,
            )
        ran.output = escape(ran.output[-_OUTPUT:], keep="\n\t")
        return ran

    async def request_human(self, by: Actor, name: str, reason: str) -> None:
        """Park the agent until a person gives back, and call the owner."""
        reason = _clean(reason, MAX_REASON)
        async with self._audited(by, name, "request_human") as attempt:
            session = attempt.session
            attempt.detail["reason"] = reason
            await self._drive(by, session)
            parked = Driver("Parked", by.user, by.token, reason)
            await self._write_driver(session, parked)
            owner, shared = normal_user(session.spec.user), self.context.shared
            # Counted over all desktops and tokens: agents must not flood their owner. Each desktop
            # shows its request.
            if await shared.count(f"human/{owner}", HUMAN_SECONDS) <= MAX_HUMAN_REQUESTS:
                number = f"msg_{uuid4().hex}"
                self.notices.send(Notice(number, HUMAN_REQUESTED, owner, parked.line, session))

    async def switch(self, by: Actor, name: str, *, human: bool) -> None:
        """Take over: refuse all agents until someone gives back. Or give back."""
        async with self._audited(by, name, "take_over" if human else "give_back") as attempt:
            if is_token(by.login_id):
                raise ActionDenied(
                    "Forbidden", "Only people take over and give back: no API token does."
                )
            await self._write_driver(attempt.session, Driver("Human", by.user) if human else None)

    async def driver(self, session: VDISession) -> Driver | None:
        """The driver; None: no one drives. Raises SharedUnavailableError."""
        if not enables_agents(self.context.cluster.template(session.spec.template)):
            return None
        held = await self.context.shared.get(_driver_key(session))
        return taken_by(session) or (_decode_driver(held) if held else None)

    def announced_end(self, name: str) -> AnnouncedEnd | None:
        """The end of a desktop that a program is to learn of; None: there is none."""
        session = self.context.cluster.session(name)
        if session is None:
            return None
        template = self.context.cluster.template(session.spec.template)
        return announced_end(session, template, self.context.clock())

    def _find(self, by: Actor, name: str) -> tuple[VDISession, Agents]:
        """The session, if the actor may drive it and its template lets programs do so."""
        cluster = self.context.cluster
        only = cluster.by_uid(by.session_uid)
        if only and only.metadata.name != name:
            message = f"This API token is for the desktop {only.metadata.name!r} only."
            raise ActionDenied("NotFound", message)
        session = cluster.session(name)
        refused = refuse_to_drive(by, session, name, self.context.clock())
        if session is None or refused:
            raise ActionDenied(*refused or ("NotFound", name))
        agents = enables_agents(self.context.cluster.template(session.spec.template))
        if agents is None:
            message = (
                f"No program may drive {name!r}: its template {session.spec.template!r} does not"
                " enable agents."
            )
            raise ActionDenied("Conflict", message)
        if not is_running(session):
            raise ActionDenied("Conflict", f"The desktop {name!r} is not running.")
        if why := refuse_picture(session):
            raise ActionDenied("Conflict", why)
        return session, agents

    async def _drive(self, by: Actor, session: VDISession) -> None:
        """Make the actor the driver, if their right holds now and no one else drives."""
        name = session.metadata.name
        seen, _ = self._find(by, name)
        if seen.metadata.uid != session.metadata.uid:
            raise ActionDenied("NotFound", f"The desktop {name!r} has ended.")
        mine = _encode_driver(Driver("Agent", by.user, by.token), by.login_id)
        held = await self.context.shared.hold(_driver_key(session), mine, DRIVES_SECONDS)
        driver = taken_by(seen) or _decode_driver(held)
        if driver.state != "Agent":
            raise ActionDenied(driver.code, f"{driver.line}. Agents wait until someone gives back.")
        if held != mine:
            raise ActionDenied("Conflict", f"{driver.line}. Try again in {DRIVES_SECONDS:g} s.")

    async def _ask(
        self,
        by: Actor,
        attempt: _Attempt,
        path: str,
        body: Mapping[str, object],
        *,
        seconds: float,
        into: type[T],
        until_read: AsyncExitStack | None,
    ) -> T:
        """The response of the agent in the desktop, if the actor may drive before the request and
        after it.

        Whoever lets the actor in has just read their login or token: here it is read again after
        the request.
        """
        session = attempt.session
        name = session.metadata.name
        if await count_in_window(self.context, "computer", session) > MAX_ACTIONS:
            message = (
                f"More than {MAX_ACTIONS} actions in {name!r} within {WINDOW_SECONDS} s. Try again"
                " in a minute."
            )
            raise ActionDenied("TooManyRequests", message)
        await self._drive(by, session)
        answer = await self.agent.ask(
            session,
            "POST",
            path,
            json=body,
            seconds=seconds,
            max_bytes=ACTION_ANSWER_BYTES,
            lane=ACTIONS,
            held=until_read,
        )
        attempt.is_done |= answer.status == HTTPStatus.OK
        if by.login_id and not await self.logins.is_live(by.login_id):
            raise ActionDenied("Forbidden", "Your API token has expired or was revoked.")
        await self._drive(by, session)
        result = _read(answer, name, into)
        if await self.context.shared.take_once(f"agent-minute/{session.metadata.uid}", 60):
            await add_agent_minute(self.context.database, session.metadata.uid)
        return result

    async def _write_driver(self, session: VDISession, driver: Driver | None) -> None:
        """Write who has taken over, or was asked to; None: give back."""
        meta = session.metadata
        note = msgspec.json.encode(driver).decode() if driver else None
        patch = {"metadata": {"uid": meta.uid, "annotations": {DRIVER: note}}}
        changed = await self.context.client.patch(
            SESSIONS, meta.name, patch, namespace=meta.namespace, into=VDISession
        )
        self.context.cluster.sessions.remember(changed)
        # Other replicas read it here until their watch has brought the annotation, however late.
        if driver:
            await self.context.shared.put(_driver_key(session), _encode_driver(driver), 2 * STALE)
        else:
            await self.context.shared.pop(_driver_key(session))

    @asynccontextmanager
    async def _audited(self, by: Actor, name: str, kind: str) -> AsyncIterator[_Attempt]:
        """Yield the action, if the actor may drive the session. The audit has one row for it, or
        counts refusals.
        """
        detail = {"token": by.token} if by.token else {}
        outcome, seen, is_counted = FAILED, self.context.cluster.session(name), False
        attempt: _Attempt | None = None
        try:
            attempt = _Attempt(*self._find(by, name), detail)
            yield attempt
            outcome = DONE
        except ActionDenied as why:
            outcome = why.code
            # A failure of the desktop's agent has a cause: the action may have been done. It was
            # done where the actor has lost the right meanwhile, or has reached a limit while it was
            # repeated.
            may_be_done = why.__cause__ is not None or (attempt is not None and attempt.is_done)
            is_counted = outcome in _REFUSED and not may_be_done
            raise
        except (SharedUnavailableError, DatabaseUnavailableError) as error:
            outcome = "Unavailable"
            raise ActionDenied(
                outcome, "A service that the gateway needs does not respond."
            ) from error
        except KubeError as error:
            refused = refused_by_cluster(error, name)
            outcome = refused.code
            raise refused from error
        finally:
            self.context.metrics.actions.labels("computer", outcome).inc()
            if seen and outcome != "NotFound":
                act = act_on(seen, by.user, f"computer.{kind}", detail)
                if is_counted:
                    await self.audit.refuse(act, outcome, by.login_id)
                elif outcome == DONE and kind not in _OF_DRIVERS:
                    await self.audit.record_soon(act)
                else:
                    await self.audit.record(act, outcome)


def _read(answer: Response, name: str, into: type[T]) -> T:
    try:
        if answer.status == HTTPStatus.OK:
            return answer.json(into)
        problem = _Answer()
        if answer.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT):
            problem = answer.json(_Answer)
    except BadResponseError as error:
        raise ActionDenied(
            "Unavailable", f"The agent in {name!r} did not return a valid response."
        ) from error
    if answer.status == HTTPStatus.BAD_REQUEST:
        raise ActionDenied(
            "Invalid", f"The desktop {name!r} refuses this action: {_clean(problem.error)}."
        )
    if answer.status == HTTPStatus.CONFLICT:
        message = (
            f"A person uses keyboard or mouse of {name!r}. Try again in {ceil(problem.seconds)} s."
        )
        raise ActionDenied("HumanInControl", message)
    if answer.status == HTTPStatus.NOT_FOUND:
        raise ActionDenied(
            "Conflict", f"The desktop {name!r} was started without agents. Restart it."
        )
    raise ActionDenied("Unavailable", f"The agent in {name!r} responds with {answer.status}.")


def _decode(text: msgspec.Raw, name: str) -> bytes:
    """The bytes of an answer's `data`."""
    try:
        return msgspec.json.decode(text, type=bytes)
    except msgspec.DecodeError as error:
        raise ActionDenied(
            "Unavailable", f"The agent in {name!r} did not return a valid response."
        ) from error


def _check_png(data: bytes, name: str) -> None:
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if not (data.startswith(_PNG) and 0 < min(width, height) <= max(width, height) <= MAX_SIDE):
        raise ActionDenied(
            "Unavailable",
            f"The agent in {name!r} did not return a PNG of at most {MAX_SIDE} pixels.",
        )


def _describe(body: Mapping[str, object], *, record_text: bool) -> dict[str, str]:
    """The fields of an action for the audit: of texts only the length, unless the template allows
    more.
    """
    detail: dict[str, str] = {}
    for key, value in body.items():
        if key in ("action", "text"):
            continue
        if isinstance(value, tuple | list):
            detail[key] = ",".join(map(str, value))
        else:
            detail[key] = str(value)
    text = body.get("text")
    if isinstance(text, str):
        detail["characters"] = str(len(text))
        if record_text:
            detail["text"] = _clean(text, MAX_TEXT)
    return detail


def _clean(text: str, longest: int = 300) -> str:
    return shorten(escape(shorten(text, longest)), longest)


def _driver_key(session: VDISession) -> str:
    return f"driver/{session.metadata.uid}"


def _encode_driver(driver: Driver, login_id: str = "") -> str:
    return msgspec.json.encode((driver, login_id)).decode()


def _decode_driver(text: str) -> Driver:
    return msgspec.json.decode(text, type=tuple[Driver, str])[0]
