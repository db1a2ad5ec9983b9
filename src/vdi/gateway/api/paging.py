"""Long lists in pages. A cursor is the sort key of the last item that was sent, so nothing is kept between pages."""

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from vdi.gateway.api.problems import invalid
from vdi.gateway.api.schemas import Page

T = TypeVar("T")
Key = tuple[str, ...]


def cut(items: Iterable[T], key: Callable[[T], Key], page: Page) -> tuple[list[T], str]:
    """The items of this page in the order of `key`, and the cursor of the next page (empty: this is the last one).

    What is added or removed between two pages neither repeats nor hides another item.
    """
    after = read_cursor(page.cursor)
    rest = sorted((item for item in items if after is None or key(item) > after), key=key)
    shown = rest[: page.limit]
    return shown, make_cursor(key(shown[-1])) if len(rest) > len(shown) else ""


def make_cursor(key: Key) -> str:
    """The cursor of what comes after this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str | None) -> Key | None:
    """The key in a cursor. Raises ProblemError for one that was not made here."""
    if not cursor:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, ...])
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise invalid("cursor", cursor, "`next` of the previous page") from error
