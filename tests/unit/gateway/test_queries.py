"""Pages of a list that changes while it is read: items that are there all the time come once."""

import string

from hypothesis import given
from hypothesis import strategies as st

from vdi.gateway.queries import cut

NAMES = st.sets(st.text(alphabet="abc\u00e4\U0001f5a5=/+", min_size=1, max_size=2), max_size=12)


@given(stays=NAMES, comes=st.lists(NAMES, max_size=6), limit=st.integers(1, 5))
def test_an_item_that_stays_comes_once_and_in_order(
    stays: set[str], comes: list[set[str]], limit: int
) -> None:
    reported: list[str] = []
    cursor = ""
    for number in range(200):
        there = stays | (comes[number % len(comes)] if comes else set())
        page = cut(there, lambda name: (name,), limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        assert set(page.next) <= set(string.ascii_letters + string.digits + "-_"), (
            "it fits into an address"
        )
        reported += page.items
        cursor = page.next
        if not cursor:
            break
    assert not cursor
    assert reported == sorted(set(reported))
    assert stays <= set(reported)
