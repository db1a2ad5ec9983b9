"""Logins and API tokens: how they begin, when they hold, and how they end, with the grants that
were made with them.

A login ends when it was not used for `login_idle`, after `login_max`, when its user logs out, and
when the entry of a local user is removed or has another password. An API token ends on its own
date, or when it is revoked.

A user of an identity provider is an account there: issuer and subject. The first account that logs
in with an e-mail address keeps it until an administrator releases it. The first login of an account
of another issuer ends what the former account has open.
"""

import hashlib
import secrets
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from starlette.exceptions import HTTPException

from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.local_users import LocalUser
from vdi.gateway.rights import TOKEN_ID, Actor, User, is_token, normal_groups, refuse_to_drive
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import Act, Audit
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import ApiToken, Login, LoginStore

# All API tokens begin with it, so that scanners for leaked secrets recognise them.
TOKEN_PREFIX = "vdi_"  # noqa: S105
# API tokens of one user.
MOST_TOKENS = 50
SOURCE_LOCAL = "local"
SOURCE_OIDC = "oidc"
_LONGEST_SECRET = 100
_SEEN_EVERY = timedelta(minutes=1)
_READ_SECONDS, _MAX_READ = 0.25, 1000
# Rows of ended logins stay for so long, to be looked up after an incident.
_KEPT = timedelta(days=7)
# In this order: user agents of the first ones also name the later ones.
_BROWSERS = {
    "Edg/": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
    "curl/": "curl",
}
_SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS X": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}


class LoginEndedError(HTTPException):
    """Raised when a login has ended while a token was made with it."""

    def __init__(self) -> None:
        super().__init__(403, "Your sign-in has ended. Sign in again.")


class ScopedTokenError(HTTPException):
    """Raised where a token of one session is used for anything else."""

    def __init__(self) -> None:
        super().__init__(
            403, "This API token can only drive its desktop. Use a token with your permissions."
        )


class AnotherAccountError(Exception):
    """Raised when an address belongs to another account of the identity provider; the sentence is
    for the person.

    `taken`: the address that an administrator has to release first.
    """

    def __init__(self, who: "Identity", taken: str, message: str) -> None:
        self.who = who
        self.taken = taken
        release = f"vdi gateway user release {taken}"
        super().__init__(
            f"{message} Ask an administrator of VDI, who can release the address {taken}: {release}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity that a password or an identity provider has just proven.

    `credential`: a hash of the local user's entry. `issuer` and `subject`: the account at the
    identity provider.
    """

    user: str
    name: str = ""
    groups: frozenset[str] = frozenset()
    admin: bool = False
    source: str = SOURCE_LOCAL
    credential: str = ""
    issuer: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """The browser that a login came from, for its user to recognise."""

    address: str = ""
    agent: str = ""


class Logins:
    """All logins and API tokens. Every method raises DatabaseUnavailableError."""

    def __init__(self, context: GatewayContext) -> None:
        self._store = LoginStore(context.database)
        self._settings = context.settings
        self._idle = context.settings.login_idle
        self._longest = context.settings.login_max
        self._clock = context.clock
        self._cluster = context.cluster
        # API tokens that held when they were read: the number of changes before that, and the event
        # loop's time.
        self._read: dict[str, tuple[int, float]] = {}

    async def begin(self, who: Identity, device: Device) -> tuple[str, Login]:
        """A new login, and its secret for the cookie. Updates the user's API tokens. Raises
        AnotherAccountError.
        """
        now = self._clock()
        secret = secrets.token_urlsafe(32)
        login = Login(
            id=secrets.token_urlsafe(16),
            user=who.user,
            name=who.name,
            groups=who.groups,
            admin=who.admin,
            source=who.source,
            credential=who.credential,
            address=device.address[:64],
            agent=device.agent[:200],
            created=now,
            seen=now,
            expires=now + self._longest,
        )
        if who.source == SOURCE_OIDC:
            await self._add_bound(login, hash_of(secret), who)
        else:
            await self._store.add_login(login, hash_of(secret))
        for token in await self._store.open_of(ApiToken, who.user, now):
            if token.source == who.source:
                await self._follow(token, who)
        return secret, login

    async def _add_bound(self, login: Login, secret_hash: str, who: Identity) -> None:
        # One INSERT does nothing if the account or the address is bound already: of two logins at
        # once, one wins. An empty answer means that the binding in the way was released at this
        # moment.
        bound: dict[str, str] = {}
        while not bound:
            bound = await self._store.add_bound_login(who.issuer, who.subject, login, secret_hash)
        other = next((user for user in bound if user != who.user), None)
        if bound.get(who.user, who.subject) != who.subject:
            raise AnotherAccountError(
                who,
                who.user,
                f"Another account of your identity provider has signed in here as {who.user}"
                " before.",
            )
        if other is not None:
            raise AnotherAccountError(
                who,
                other,
                f"Your account has signed in here as {other} before; now its address is"
                f" {who.user}.",
            )

    async def release(self, user: str) -> bool:
        """Unbind this address from its account of the identity provider; False: it is not bound."""
        return await self._store.release(user)

    async def release_all(self) -> list[str]:
        """Unbind all addresses; returns them."""
        return await self._store.release_all()

    async def person_by_cookie(self, secret: str, *, in_use: bool = True) -> User | None:
        """The user of a login's secret, while it holds. `in_use`: whether this counts as use of the
        login.
        """
        if not secret or len(secret) > _LONGEST_SECRET:
            return None
        login = await self._store.by_hash(Login, hash_of(secret))
        if login is None or not self._holds(login):
            return None
        if in_use:
            await self._see(login)
        return self._person(login)

    async def person_by_token(self, token: str) -> User | None:
        """The user of an API token, while it holds. Raises ScopedTokenError."""
        stored = await self._by_token(token)
        return self._person(stored) if stored else None

    async def actor_by_token(self, token: str) -> Actor | None:
        """The actor of an API token of any scope, while it holds."""
        stored = await self._by_token(token)
        if stored:
            return Actor(stored.user, stored.label, stored.session_uid, f"{TOKEN_ID}{stored.id}")
        return None

    async def _by_token(self, token: str) -> ApiToken | None:
        if not token.startswith(TOKEN_PREFIX) or len(token) > _LONGEST_SECRET:
            return None
        before = self._store.changes, get_running_loop().time()
        stored = await self._store.by_hash(ApiToken, hash_of(token))
        if stored is None or not self._holds(stored):
            return None
        if len(self._read) >= _MAX_READ:
            self._read.clear()
        self._read[f"{TOKEN_ID}{stored.id}"] = before
        await self._see(stored)
        return stored

    async def is_live(self, login_id: str) -> bool:
        """Whether this login or API token holds now.

        A token that was read in the last quarter of a second is not read again unless this process
        has ended one since: an action of an agent asks before and after. One that another replica
        ends holds for that quarter more.
        """
        changes, at = self._read.get(login_id, (-1, 0.0))
        if changes == self._store.changes and get_running_loop().time() - at < _READ_SECONDS:
            return True
        return await self._holding(login_id) is not None

    async def touch(self, login_id: str) -> bool:
        """`is_live`, and counts as use: a user who works in a desktop is not idle."""
        credential = await self._holding(login_id)
        if credential is not None:
            await self._see(credential)
        return credential is not None

    async def person_by_id(self, login_id: str) -> User | None:
        """The user of a login or API token, while it holds. Only for ids that the gateway itself
        has kept.
        """
        credential = await self._holding(login_id)
        if credential is not None:
            return self._person(credential)
        return None

    async def source_of(self, login_id: str) -> str:
        """`local` or `oidc`; empty for an unknown login."""
        credential = await self._by_id(login_id)
        if credential is not None:
            return credential.source
        return ""

    async def of(self, user: str) -> list[Login]:
        """The user's logins that hold now, the latest seen first."""
        return [
            login
            for login in await self._store.open_of(Login, user, self._clock())
            if self._holds(login)
        ]

    async def end(self, login_id: str) -> None:
        await self._store.end(Login, [login_id], self._clock())

    async def end_all(self, user: str) -> list[str]:
        """End all logins of a user; returns their ids."""
        now = self._clock()
        ids = [login.id for login in await self._store.open_of(Login, user, now)]
        await self._store.end(Login, ids, now)
        return ids

    async def new_token(
        self, user: User, label: str, lifetime: timedelta, session: str = ""
    ) -> tuple[str, ApiToken]:
        """A new API token with the rights of this user. The database has only its hash: it is
        readable only now.

        `session`: name of the one that it may drive. Raises LoginEndedError, and ActionDenied for
        more than MOST_TOKENS, and for a session that the user may not drive.
        """
        now, target = self._clock(), self._cluster.session(session) if session else None
        if session and (refused := refuse_to_drive(user.actor, target, session, now)):
            raise ActionDenied(*refused)
        gone = [
            token.id
            for token in await self._store.open_of(ApiToken, user.email, now)
            if not self._holds(token)
        ]
        await self._store.end(ApiToken, gone, now)  # of sessions that have ended: they do not count
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token = ApiToken(
            id=secrets.token_urlsafe(16),
            user=user.email,
            name=user.name,
            groups=user.groups,
            admin=user.admin,
            source=await self.source_of(user.login_id),
            label=label,
            session_uid=target.metadata.uid if target else "",
            created=now,
            expires=now + lifetime,
        )
        if not await self._store.add_token(token, hash_of(secret), MOST_TOKENS):
            message = f"You already have {MOST_TOKENS} API tokens. Revoke one that you do not need."
            raise ActionDenied("OverLimit", message)
        if user.login_id and not await self.is_live(user.login_id):
            # *Sign out everywhere* may have listed the user's tokens just before this one was
            # written.
            await self._store.end(ApiToken, [token.id], self._clock())
            raise LoginEndedError
        return secret, token

    async def tokens(self, user: str) -> list[ApiToken]:
        """The user's API tokens that hold now, the newest first."""
        return [
            token
            for token in await self._store.open_of(ApiToken, user, self._clock())
            if self._holds(token)
        ]

    async def end_token(self, user: str, token_id: str) -> ApiToken | None:
        """Revoke an API token of this user; None: the id is unknown, or the token has ended."""
        now = self._clock()
        mine = []
        for token in await self._store.open_of(ApiToken, user, now):
            if token.id == token_id:
                mine.append(token)
        await self._store.end(ApiToken, [token.id for token in mine], now)
        return mine[0] if mine else None

    async def end_tokens(self, user: str) -> list[str]:
        """Revoke all API tokens of a user; returns their ids as `User.login_id` has them."""
        now = self._clock()
        ids = [token.id for token in await self._store.open_of(ApiToken, user, now)]
        await self._store.end(ApiToken, ids, now)
        return [f"{TOKEN_ID}{token_id}" for token_id in ids]

    async def follow_users(self, users: Mapping[str, Identity]) -> list[str]:
        """Apply the current local users to open logins and API tokens; returns the ids of the
        logins that this ended.

        A removed user, and one with a new password, is logged out. A new name, group or role counts
        at once.
        """
        now = self._clock()
        ended = []
        for login in await self._store.open_from(Login, SOURCE_LOCAL, now):
            who = users.get(login.user)
            if who is None or who.credential != login.credential:
                ended.append(login.id)
            else:
                await self._follow(login, who)
        await self._store.end(Login, ended, now)
        tokens = await self._store.open_from(ApiToken, SOURCE_LOCAL, now)
        await self._store.end(
            ApiToken, [token.id for token in tokens if token.user not in users], now
        )
        for token in tokens:
            if token.user in users:
                await self._follow(token, users[token.user])
        return ended

    async def end_over(self) -> list[str]:
        """End the logins whose time is over; returns their ids."""
        now = self._clock()
        ids = [login.id for login in await self._store.over_logins(now, now - self._idle)]
        await self._store.end(Login, ids, now)
        return ids

    async def forget_old(self) -> None:
        """Delete rows that ended a week ago."""
        await self._store.forget_before(self._clock() - _KEPT)

    async def _follow(self, credential: Login | ApiToken, who: Identity) -> None:
        if (credential.name, credential.groups, credential.admin) != (
            who.name,
            who.groups,
            who.admin,
        ):
            await self._store.update(credential, name=who.name, groups=who.groups, admin=who.admin)

    async def _see(self, credential: Login | ApiToken) -> None:
        now = self._clock()
        if credential.seen is None or now - credential.seen >= _SEEN_EVERY:
            # A database that only reads still proves who it is. Without the time, the login is idle
            # earlier.
            with suppress(DatabaseUnavailableError):
                await self._store.update(credential, seen=now)

    async def _by_id(self, login_id: str) -> Login | ApiToken | None:
        if is_token(login_id):
            return await self._store.by_id(ApiToken, login_id.removeprefix(TOKEN_ID))
        return await self._store.by_id(Login, login_id)

    async def _holding(self, login_id: str) -> Login | ApiToken | None:
        credential = await self._by_id(login_id)
        if credential is not None and self._holds(credential):
            return credential
        return None

    def _holds(self, credential: Login | ApiToken) -> bool:
        now = self._clock()
        if isinstance(credential, Login):
            in_use = now - credential.seen < self._idle
        else:
            in_use = (
                not credential.session_uid
                or self._cluster.by_uid(credential.session_uid) is not None
            )
        return credential.ended is None and now < credential.expires and in_use

    def _person(self, credential: Login | ApiToken) -> User:
        # Every way to a User leads here, so a token of one session never becomes one.
        if isinstance(credential, ApiToken) and credential.session_uid:
            raise ScopedTokenError
        user, groups, settings = credential.user, credential.groups, self._settings
        return User(
            email=user,
            name=credential.name,
            groups=groups,
            admin=credential.admin,
            auditor=user in settings.auditor_users
            or not groups.isdisjoint(settings.auditor_groups),
            login_id=(
                credential.id if isinstance(credential, Login) else f"{TOKEN_ID}{credential.id}"
            ),
        )


def hash_of(secret: str) -> str:
    """The SHA-256 of a random secret: the database has only this."""
    return hashlib.sha256(secret.encode()).hexdigest()


def local_identity(user: str, entry: LocalUser, settings: Settings) -> Identity:
    """The identity of a local user, with this entry in the Secret."""
    groups = normal_groups(entry.groups)
    return Identity(
        user=user,
        name=entry.name,
        groups=groups,
        admin=entry.admin
        or user in settings.admin_users
        or not groups.isdisjoint(settings.admin_groups),
        source=SOURCE_LOCAL,
        credential=hash_of(entry.password)[:32],
    )


def browser(agent: str) -> str:
    """`Firefox on Windows`; an unknown user agent as it is, cut off."""
    name = next((word for mark, word in _BROWSERS.items() if mark in agent), "")
    system = next((word for mark, word in _SYSTEMS.items() if mark in agent), "")
    if not name:
        return agent[:60] or "unknown"
    return f"{name} on {system}" if system else name


class SignOut:
    """Ends logins and API tokens with the desktop access they gave, and audits what users do to
    their own.

    Every method raises DatabaseUnavailableError.
    """

    def __init__(
        self, logins: Logins, audit: Audit, end_grants: Callable[..., Awaitable[object]]
    ) -> None:
        """`end_grants`: `Revoker.end` of the edge, which this package may not import."""
        self._logins = logins
        self._audit = audit
        self._end_grants = end_grants

    async def end_login(self, login_id: str) -> None:
        """End one login and every grant that was made with it: open pictures stop."""
        await self._logins.end(login_id)
        await self._end_grants(login_id=login_id)

    async def end_everything(self, user: str, *, tokens: bool) -> None:
        """End all logins of a user, with `tokens` all API tokens too, and all of the user's
        grants.
        """
        ended = await self._logins.end_all(user)
        if tokens:
            ended += await self._logins.end_tokens(user)
        await self._end_grants(user=user, over=ended, reason="ended")

    async def end_own_login(self, user: User, login_id: str) -> bool:
        """End one of the user's own logins; False: the user has no login of this id."""
        if login_id not in {login.id for login in await self._logins.of(user.email)}:
            return False
        await self.end_login(login_id)
        await self._record(
            user,
            "login.end",
            which="this browser" if login_id == user.login_id else "another browser",
        )
        return True

    async def end_own_logins(self, user: User, *, tokens: bool) -> None:
        """Sign the user out everywhere, with `tokens` their programs too."""
        await self.end_everything(user.email, tokens=tokens)
        await self._record(user, "login.end_all", tokens=str(tokens).lower())

    async def make_token(
        self, user: User, label: str, lifetime: timedelta, session: str = ""
    ) -> tuple[str, ApiToken]:
        """A new API token, as `Logins.new_token` makes it."""
        secret, token = await self._logins.new_token(user, label, lifetime, session)
        scope = {"session": session} if session else {}
        await self._record(user, "token.create", label=label, days=str(lifetime.days), **scope)
        return secret, token

    async def revoke_token(self, user: User, token_id: str) -> bool:
        """Revoke one of the user's own API tokens and end its grants; False: the user has no token
        of this id.
        """
        token = await self._logins.end_token(user.email, token_id)
        if token is None:
            return False
        await self._end_grants(login_id=f"{TOKEN_ID}{token_id}")
        await self._record(
            user, "token.revoke", label=token.label, days=str((token.expires - token.created).days)
        )
        return True

    async def end_grants_of(self, login_ids: list[str]) -> None:
        """End the grants of logins that have already ended."""
        for login_id in login_ids:
            await self._end_grants(login_id=login_id)

    async def _record(self, user: User, action: str, **detail: str) -> None:
        await self._audit.record(
            Act(actor=user.email, action=action, target=user.email, detail=detail)
        )
