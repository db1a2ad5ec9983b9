"""Pages of a list that changes while it is read: what was there all the time comes once."""

import string

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vdi.gateway.api.operation import cut, make_cursor, read_cursor
from vdi.gateway.api.schemas import Page

NAMES = st.sets(st.text(alphabet=string.ascii_lowercase, min_size=1, max_size=2), max_size=12)


@given(stays=NAMES, comes=st.lists(NAMES, max_size=6), limit=st.integers(1, 5))
def test_what_stays_comes_once_and_in_order(stays: set[str], comes: list[set[str]], limit: int) -> None:
    reported: list[str] = []
    cursor: str | None = None
    for number in range(200):
        there = stays | (comes[number % len(comes)] if comes else set())
        items, after = cut(there, lambda name: (name,), Page(limit, cursor))
        assert len(items) <= limit
        reported += items
        cursor = after or None
        if cursor is None:
            break
    assert cursor is None
    assert reported == sorted(set(reported))
    assert stays <= set(reported)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_cursor_is_read_as_it_was_made_and_fits_into_an_address(key: list[str]) -> None:
    try:
        cursor = make_cursor(tuple(key))
    except (UnicodeEncodeError, msgspec.MsgspecError):
        assert any(0xD800 <= ord(one) <= 0xDFFF for each in key for one in each)
        return
    assert read_cursor(cursor) == tuple(key)
    assert set(cursor) <= set(string.ascii_letters + string.digits + "-_")
