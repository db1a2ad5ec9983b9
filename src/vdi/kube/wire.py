"""The API's protocol without the network: bytes in, values out. Pure."""

from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import msgspec

from vdi.kube.errors import UnexpectedAnswer, error_from

T = TypeVar("T")


# What decoding raises; the last for what is nested too deeply.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Identity(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Identity and version of an object. BOOKMARKs have only the version."""

    resource_version: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch, decoded only as far as is needed to see whether it is news.

    Most lines are not: a process that writes has the answers to its own writes before the watch
    brings them.
    """

    # ADDED, MODIFIED, DELETED or BOOKMARK.
    type: str
    metadata: Identity
    line: bytes

    @property
    def object(self) -> msgspec.Raw:
        """The object as JSON, decoded from the line again at each use."""
        return _decode_event(self.line).object


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: the objects as JSON, and the version of the whole list."""

    items: list[msgspec.Raw]
    resource_version: str
    # What to ask the next page with; empty on the last.
    token: str


class LineSplitter:
    """Cuts a stream of chunks into lines; a line may be split anywhere, also inside a character.

    One that is longer than `longest` bytes comes in pieces, so that a line without an end takes no
    more memory.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without line ends; empty ones left out."""
        lines = chunk.split(b"\n")
        if len(lines) > 1 and self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        rest = lines.pop()
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self._longest:
                lines.append(b"".join(self._parts))
                self._parts.clear()
                self._size = 0
        return [line for line in lines if line]

    def rest(self) -> bytes:
        """The bytes after the last line end."""
        return b"".join(self._parts)


class _ListMeta(
    msgspec.Struct, rename={"resource_version": "resourceVersion", "token": "continue"}, gc=False
):
    resource_version: str = ""
    token: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Identified(msgspec.Struct, gc=False):
    kind: str = ""
    metadata: Identity = Identity()


class _Sighting(msgspec.Struct, gc=False):
    type: str
    object: _Identified


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Terminating(msgspec.Struct, rename="camel", gc=False):
    deletion_timestamp: str | None = None


class _Deleted(msgspec.Struct, gc=False):
    kind: str = ""
    metadata: _Terminating | None = None


_decode_sighting = msgspec.json.Decoder(_Sighting).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode
_decode_deleted = msgspec.json.Decoder(_Deleted).decode


# One per type that was ever asked for, for the life of the process: making one costs more than a
# hundred uses.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
# msgspec 0.22 shares what it knows of a struct with other threads before it is complete; decoding
# then crashes.
_building = Lock()
# Type -> that of an event with it.
_envelopes: dict[Any, Any] = {}


def decode(body: bytes | msgspec.Raw, into: type[T], what: str) -> T:
    """One object. Raises UnexpectedAnswer, which names `what` was read and which field did not
    fit.
    """
    if into is msgspec.Raw:
        return msgspec.Raw(body)  # type: ignore[return-value]
    try:
        response: T = _decoder_of(into).decode(body)
    except _UNREADABLE as error:
        raise UnexpectedAnswer(
            f"{what}: cannot be read as {getattr(into, '__name__', into)}: {error}"
        ) from error
    return response


def convert(value: Any, into: type[T]) -> T:
    """An object that was decoded to maps and lists. Raises msgspec.ValidationError.

    Other threads may decode or convert to the same type meanwhile, which they may not with
    `msgspec.convert`.
    """
    _decoder_of(into)
    return msgspec.convert(value, into, strict=False)


def without_nulls(value: Any) -> Any:
    """Maps and lists without the fields that are null: they are as good as not set."""
    if isinstance(value, dict):
        return {key: without_nulls(field) for key, field in value.items() if field is not None}
    if isinstance(value, list):
        return [without_nulls(entry) for entry in value]
    return value


def _decoder_of(into: type) -> msgspec.json.Decoder[Any]:
    decoder = _decoders.get(into)
    if decoder is None:
        with _building:
            decoder = _decoders[into] = msgspec.json.Decoder(into)
    return decoder


def decode_event(event: WatchEvent, into: type[T], what: str) -> T:
    """The object of an event, from its line at once: not by way of its JSON. Raises
    UnexpectedAnswer as `decode`.
    """
    envelope = _envelopes.get(into)
    if envelope is None:
        envelope = _envelopes[into] = msgspec.defstruct("Event", [("object", into)], gc=False)
    return decode(msgspec.Raw(event.line), envelope, what).object  # type: ignore[no-any-return]


def parse_event(line: bytes, what: str) -> WatchEvent:
    """One line of a watch. An ERROR line is raised as the ApiError that it carries."""
    try:
        seen = _decode_sighting(line)
    except _UNREADABLE as error:
        raise UnexpectedAnswer(f"{what}: {line[:100]!r} is not a watch event: {error}") from error
    event = WatchEvent(seen.type, seen.object.metadata, line)
    if event.type == "ERROR":
        raise error_from(500, bytes(event.object), request=what)
    return event


def parse_page(body: bytes, what: str) -> Page:
    try:
        page = _decode_list(body)
    except _UNREADABLE as error:
        raise UnexpectedAnswer(f"{what}: not a list: {error}") from error
    return Page(page.items or [], page.metadata.resource_version, page.metadata.token)


def version_in(event: WatchEvent) -> str:
    """The resourceVersion of the object (or of nothing but the version: BOOKMARK) in an event."""
    return numeric(event.metadata.resource_version, f"{event.type} event")


def numeric(version: str, what: str) -> str:
    """The same version, if it is a number, as everything is that Kubernetes itself stores; else
    UnexpectedAnswer.
    """
    if not version.isdigit():
        raise UnexpectedAnswer(f"{what}: resourceVersion is {version!r}, must be a number")
    return version


def name_in(body: bytes | msgspec.Raw) -> str:
    """Kind, namespace and name of an object for messages, whatever else is wrong with it."""
    try:
        identified = _decode_identified(body)
    except _UNREADABLE:
        return "an object without readable metadata"
    return f"{identified.kind} {identified.metadata.namespace}/{identified.metadata.name}".strip()


def is_terminating(body: bytes) -> bool:
    """Whether the answer to a DELETE is an object that is still there: it then has a
    deletionTimestamp.
    """
    response = _decode_deleted(body)
    return (
        response.kind != "Status"
        and response.metadata is not None
        and response.metadata.deletion_timestamp is not None
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; Kubernetes never sends the date form, so that one is taken
    as absent.
    """
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None
