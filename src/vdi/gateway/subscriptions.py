"""Open event streams by user and topic: wakes the streams that a change of a session concerns.

One listener on all sessions serves all browsers: a change costs a look-up by user, not a call per browser. A stream
reads what it shows from the cluster cache when it is woken, so nothing queues up for a slow browser.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.rights import User
from vdi.session.users import normal_user

# Open pages of one user; one more ends the oldest, whose page says so and does not reconnect.
STREAMS_PER_USER = 10

# Topic of changes of any session.
EVERYTHING = "everything"
_BY_PERSON = "portal-person"


class Subscription:
    """One open event stream."""

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.displaced = False
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    async def wait(self, seconds: float | None) -> None:
        """Return when woken, and after so many seconds at the latest; None: only when woken."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        self._news.clear()


class Subscriptions:
    """Open event streams by topic. Only the event loop's thread changes them, between two awaits: hence no lock."""

    def __init__(self, cluster: ClusterCache) -> None:
        self._cluster = cluster
        self._by_topic: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._by_user: defaultdict[str, list[Subscription]] = defaultdict(list)
        cluster.sessions.add_index(_BY_PERSON, people_in)
        cluster.listen(self._changed)

    def sessions_with(self, user: User) -> list[VDISession]:
        """Sessions that name this user as owner or guest, newest first; a guest's access may have expired."""
        found = self._cluster.sessions.by_index(_BY_PERSON, normal_user(user.email))
        return sorted(
            found, key=lambda session: (session.metadata.creation_timestamp, session.metadata.name), reverse=True
        )

    @contextmanager
    def subscribe(self, user: str | None, topics: Iterable[str]) -> Iterator[Subscription]:
        """A subscription while its stream is open. With a user it is one of their pages; None: streams are counted
        elsewhere.
        """
        subscription = Subscription(frozenset(topics))
        mine = self._by_user[user] if user is not None else []
        while len(mine) >= STREAMS_PER_USER:
            oldest = mine.pop(0)
            oldest.displaced = True
            oldest.wake()
        mine.append(subscription)
        for topic in subscription.topics:
            self._by_topic[topic].add(subscription)
        try:
            yield subscription
        finally:
            if subscription in mine:
                mine.remove(subscription)
            if user is not None and not mine:
                self._by_user.pop(user, None)
            for topic in subscription.topics:
                self._by_topic[topic].discard(subscription)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]

    def __len__(self) -> int:
        return sum(map(len, self._by_user.values()))

    def _changed(self, kind: str, old: Any, new: Any) -> None:
        if kind != "session":
            return
        topics = {EVERYTHING}
        for session in (old, new):
            if session is not None:
                topics.update(user_topic(user) for user in people_in(session))
                topics.add(session_topic(session.metadata.name))
        for topic in topics:
            for subscription in self._by_topic.get(topic, ()):
                subscription.wake()


def people_in(session: VDISession) -> set[str]:
    """The owner and all guests of a session."""
    return {normal_user(session.spec.user), *(normal_user(access.user) for access in session.spec.access)}


def user_topic(user: str) -> str:
    """Topic of changes of sessions that this user owns or is a guest of."""
    return f"user/{normal_user(user)}"


def session_topic(name: str) -> str:
    """Topic of changes of this session."""
    return f"session/{name}"
