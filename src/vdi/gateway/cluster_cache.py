"""The gateway's cache of sessions, templates, pools and homes, and the subscriptions of streams
that follow it.
"""

import asyncio
import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self

from vdi.api.meta import find_condition
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.rights import User, may_use
from vdi.gateway.settings import Settings
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.interning import Interner
from vdi.kube.resource import CLAIMS
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector, describe_troubles
from vdi.session.conditions import ADMITTED, Reason
from vdi.session.homes import HomeClaim, HomeSummary, summarize_homes
from vdi.session.naming import MANAGED_BY, USER_ANNOTATION
from vdi.session.users import normal_user, same_user

Kind = Literal["session", "template", "pool"]
Watched = VDISession | VDITemplate | VDIPool
# Called with (kind, old, new): (kind, None, new) is an addition, (kind, old, None) a removal.
Listener = Callable[[Kind, Any, Any], None]

# A watch that is silent for 90 s is opened again. After so many seconds the cache counts as stuck.
STALE = 150.0

_BY_URL = "url"
_BY_UID = "uid"
_BY_POD_IP = "pod-ip"
# Open pages of one user; one more ends the oldest, whose page says so and does not reconnect.
STREAMS_PER_USER = 10
# Topic of changes of any session.
EVERYTHING = "everything"
_BY_PERSON = "portal-person"


class ClusterCache:
    """Copies of the objects that the gateway needs: it watches them while entered as an async
    context manager.

    Every request reads from here, none asks the API server. The objects are shared: a reader must
    not change them.
    """

    def __init__(self, client: Client, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self.sessions: Store[VDISession] = Store(interner=Interner())
        self.templates: Store[VDITemplate] = Store()
        self.pools: Store[VDIPool] = Store()
        self.homes: Store[HomeClaim] = Store(interner=Interner())
        self.sessions.add_index(_BY_URL, lambda session: [session.status.url])
        self.sessions.add_index(_BY_UID, lambda session: [session.metadata.uid])
        self.sessions.add_index(_BY_POD_IP, lambda session: [_canonical(session.status.pod_ip)])
        self._clock = clock
        self._listeners: list[Listener] = []
        self._stack = AsyncExitStack()
        self.reflectors: tuple[Reflector[Any], ...] = (
            *(
                Reflector(
                    client, SESSIONS, VDISession, self.sessions, namespace=namespace, clock=clock
                )
                for namespace in settings.namespaces
            ),
            Reflector(client, TEMPLATES, VDITemplate, self.templates, clock=clock),
            Reflector(client, POOLS, VDIPool, self.pools, clock=clock),
            *(
                Reflector(
                    client,
                    CLAIMS,
                    HomeClaim,
                    self.homes,
                    namespace=namespace,
                    label_selector=",".join(f"{key}={value}" for key, value in MANAGED_BY.items()),
                    clock=clock,
                )
                for namespace in settings.namespaces
            ),
        )
        self.sessions.listen(lambda old, new: self._changed("session", old, new))
        self.templates.listen(lambda old, new: self._changed("template", old, new))
        self.pools.listen(lambda old, new: self._changed("pool", old, new))

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        tasks = [
            group.create_task(reflector.run(), name=f"watch {reflector.resource.plural}")
            for reflector in self.reflectors
        ]
        self._stack.callback(lambda: [task.cancel() for task in tasks])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def session(self, name: str) -> VDISession | None:
        """The session of this name. Of several, each in its own namespace, the one that the
        operator lets have it.

        Until the operator has decided about a new session, that is the older one.
        """
        known = (self.sessions.get(namespace, name) for namespace in self.settings.namespaces)
        sessions = [session for session in known if session]
        return min(
            sessions,
            key=lambda found: (_has_name_taken(found), found.metadata.creation_timestamp),
            default=None,
        )

    def template(self, name: str) -> VDITemplate | None:
        """The template of this name."""
        return self.templates.get("", name)

    def templates_for(self, user: User) -> dict[str, VDITemplate]:
        """The templates that the user may start, by name and in its order."""
        mine = {
            template.metadata.name: template
            for template in self.templates.values()
            if may_use(template, user)
        }
        return dict(sorted(mine.items()))

    def all_homes(self) -> list[HomeSummary]:
        """The homes of all users."""
        return summarize_homes(self.homes.values(), self.sessions.values())

    def homes_of(self, user: str) -> list[HomeSummary]:
        """The homes of this user."""
        claims = []
        for claim in self.homes.values():
            if same_user(claim.metadata.annotations.get(USER_ANNOTATION, ""), user):
                claims.append(claim)
        sessions = [
            session for session in self.sessions.values() if same_user(session.spec.user, user)
        ]
        return summarize_homes(claims, sessions)

    def home_of(self, user: str, name: str) -> HomeSummary | None:
        """This home; None where it does not exist or is another person's."""
        return next((home for home in self.homes_of(user) if home.name == name), None)

    def by_host(self, host: str) -> VDISession | None:
        """The session at this host (`label.domain`, in lower case, without port) or label."""
        # `status.url` counts, which the operator writes, and not a host that a session only
        # requests: the request goes to the session that has the route, so the rights of another one
        # must not count.
        label = host.removesuffix(f".{self.settings.domain}")
        sessions = self.sessions.by_index(_BY_URL, self.settings.url(self.settings.host(label)))
        return min(
            sessions,
            key=lambda session: (session.metadata.creation_timestamp, session.metadata.uid),
            default=None,
        )

    def by_uid(self, uid: str) -> VDISession | None:
        """The session with this uid."""
        return next(iter(self.sessions.by_index(_BY_UID, uid)), None)

    def is_desktop(self, address: str) -> bool:
        """Whether a session's pod has this IP address."""
        key = _canonical(address)
        return bool(key) and any(self.sessions.by_index(_BY_POD_IP, key))

    @property
    def synced(self) -> bool:
        """Whether every kind has been listed completely once."""
        return all(reflector.synced for reflector in self.reflectors)

    async def wait_synced(self) -> None:
        """Return once every kind has been listed completely."""
        for reflector in self.reflectors:
            await reflector.wait_synced()

    def troubles(self) -> Iterator[str]:
        """One line per kind whose watch fails, with the reason."""
        return describe_troubles(self.reflectors)

    def stuck(self) -> Iterator[str]:
        """One line per kind whose watch is silent without an error, though it should have been
        opened again.
        """
        for reflector in self.reflectors:
            contact = reflector.last_contact
            if reflector.last_error is None and contact is not None:
                silence = self._clock.monotonic() - contact
                if silence > STALE:
                    yield (
                        f"{reflector.resource.plural}: no message from the API server for"
                        f" {silence:.0f} s"
                    )

    def listen(self, listener: Listener) -> None:
        """Call back on every change, at once, from the event loop's thread."""
        self._listeners.append(listener)

    def _changed(self, kind: Kind, old: Watched | None, new: Watched | None) -> None:
        for listener in self._listeners:
            listener(kind, old, new)


def _has_name_taken(session: VDISession) -> bool:
    """Whether the operator refuses it, since a session of another namespace has its name."""
    admitted = find_condition(session.status.conditions, ADMITTED)
    return admitted is not None and admitted.reason == Reason.NAME_TAKEN


def _canonical(address: str) -> str:
    """One spelling per IP address: a listener for IPv6 names an IPv4 peer `::ffff:10.1.2.3`. Empty
    for other text.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)


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
    """Open event streams by user and topic: wakes those that a change of a session concerns.

    One listener on all sessions serves all browsers: a change costs a look-up by user, not a call
    per browser. A stream reads what it shows from the cache when it is woken, so nothing queues up
    for a slow browser. Only the event loop's thread changes them, between two awaits: hence no
    lock.
    """

    def __init__(self, cluster: ClusterCache) -> None:
        self._cluster = cluster
        self._by_topic: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._by_user: defaultdict[str, list[Subscription]] = defaultdict(list)
        cluster.sessions.add_index(_BY_PERSON, people_in)
        cluster.listen(self._changed)

    def sessions_with(self, user: User) -> list[VDISession]:
        """Sessions that name this user as owner or guest, newest first; a guest's access may have
        expired.
        """
        sessions = self._cluster.sessions.by_index(_BY_PERSON, normal_user(user.email))
        return sorted(
            sessions,
            key=lambda session: (session.metadata.creation_timestamp, session.metadata.name),
            reverse=True,
        )

    @contextmanager
    def subscribe(self, user: str | None, topics: Iterable[str]) -> Iterator[Subscription]:
        """A subscription while its stream is open. With a user it is one of their pages; None:
        streams are counted elsewhere.
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
    return {
        normal_user(session.spec.user),
        *(normal_user(access.user) for access in session.spec.access),
    }


def user_topic(user: str) -> str:
    """Topic of changes of sessions that this user owns or is a guest of."""
    return f"user/{normal_user(user)}"


def session_topic(name: str) -> str:
    """Topic of changes of this session."""
    return f"session/{name}"
