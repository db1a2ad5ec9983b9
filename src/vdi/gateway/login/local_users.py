"""Local users: entries of the Secret `vdi-gateway-users` (key `users.yaml`), and their password
hashes (argon2id).

    alice@example.com:
      password: $argon2id$v=19$m=32768,t=3,p=1$...
      name: Alice Liddell      # these three may be left out
      groups: [engineering]
      admin: false

The gateway reads the Secret at each login, so a change needs no restart; `vdi gateway user` edits
the entries and must start quickly: this module imports nothing of the gateway's server.
"""

import asyncio
import base64
import binascii
import logging
import re
import secrets
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import yaml
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from vdi.gateway.settings import Settings
from vdi.kube.errors import KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.users import check_address, normal_user

log = logging.getLogger(__name__)

USERS_KEY = "users.yaml"
# Longer passwords are wrong before anything is computed.
MAX_PASSWORD_BYTES = 1024
MIN_PASSWORD_CHARACTERS = 10
# A hash takes 50 ms of a core and MEMORY_KIB, which a flood of logins would use: so many are
# computed at a time, and a login that would wait behind MAX_WAITING others is refused.
MAX_HASHES = 2
MAX_WAITING = 50
MEMORY_KIB = 32 * 1024
_TIME_COST = 3
# Letters and digits that are not mistaken for each other.
_LEGIBLE = "abcdefghjkmnpqrstuvwxyz23456789"
_HASH = re.compile(
    r"\$argon2id\$v=19\$m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)
_FIELDS = "allowed: password, name, groups and admin"


class LoginsBusyError(Exception):
    """Raised when too many attempts to log in wait already."""


class UsersUnavailableError(Exception):
    """Raised when the local users cannot be read now."""


class UserFileError(Exception):
    """Raised when the users cannot be read at all. Shows nothing of the file: it has hashes in
    it.
    """


class Passwords:
    """Makes password hashes, and checks passwords in threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(
            time_cost=_TIME_COST, memory_cost=MEMORY_KIB, parallelism=1
        )
        self._dummy = self._hasher.hash(secrets.token_urlsafe(16))
        self._turn = asyncio.Semaphore(MAX_HASHES)
        self._waiting = 0

    def make_hash(self, password: str) -> str:
        """The hash to store. Raises ValueError for a password that is too short or too long."""
        data = _normalized(password)
        if len(password) < MIN_PASSWORD_CHARACTERS:
            raise ValueError(
                f"the password has {len(password)} characters; allowed: {MIN_PASSWORD_CHARACTERS}"
                " or more"
            )
        if len(data) > MAX_PASSWORD_BYTES:
            raise ValueError(
                f"the password has {len(data)} bytes; allowed: at most {MAX_PASSWORD_BYTES}"
            )
        return self._hasher.hash(data)

    async def check(self, stored: str | None, password: str) -> bool:
        """Whether this is the password of a stored hash; None: no such user. Raises
        LoginsBusyError.
        """
        # An unknown user and a password that is too long cost one hash, too: the time must not tell
        # who has an account.
        if self._waiting >= MAX_WAITING:
            raise LoginsBusyError("too many users are logging in right now")
        self._waiting += 1
        try:
            async with self._turn:
                data = _normalized(password)
                fits = 0 < len(data) <= MAX_PASSWORD_BYTES
                right = await asyncio.to_thread(
                    self._verify, stored or self._dummy, data if fits else b""
                )
        finally:
            self._waiting -= 1
        return right and fits and stored is not None

    def _verify(self, stored: str, data: bytes) -> bool:
        try:
            return self._hasher.verify(stored, data)
        except (Argon2Error, InvalidHashError):
            return False


def new_password() -> str:
    """A random password of 100 bits, in four groups."""
    groups = ("".join(secrets.choice(_LEGIBLE) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def _normalized(password: str) -> bytes:
    """The password in NFC (RFC 8265): keyboards differ in how they send accented letters."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


class LocalUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the file. `password`: an argon2id hash."""

    password: str
    name: str = ""
    groups: tuple[str, ...] = ()
    admin: bool = False

    def __repr__(self) -> str:
        return f"LocalUser(name={self.name!r}, groups={self.groups!r}, admin={self.admin!r})"


def read_users(text: str) -> tuple[dict[str, LocalUser], list[str]]:
    """The valid users, and the problems of the other entries: one bad entry locks no one else
    out.
    """
    users: dict[str, LocalUser] = {}
    problems = []
    for key, entry in _load(text).items():
        try:
            user, read = _read_entry(key, entry)
            if user in users:
                raise ValueError(
                    "is listed twice; allowed: one entry, because upper and lower case are the same"
                )
        except ValueError as why:
            problems.append(f"{USERS_KEY}: {str(key)[:260]!r}: {why}")
        else:
            users[user] = read
    return users, problems


def change_user(text: str, user: str, entry: LocalUser | None) -> str:
    """The file with this entry in place of the user's, or without it (None). Other entries stay,
    even bad ones.
    """
    raw = {key: value for key, value in _load(text).items() if normal_user(str(key)) != user}
    if entry is not None:
        raw[user] = msgspec.to_builtins(entry)
    return _dump(raw)


def _load(text: str) -> dict[Any, Any]:
    try:
        raw = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506 -- both are safe
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserFileError(f"{USERS_KEY} is not valid YAML{where}") from None
    if not isinstance(raw, dict):
        raise UserFileError(
            f"{USERS_KEY} is of type {type(raw).__name__}; allowed: a mapping from e-mail addresses"
            " to users"
        )
    return raw


def _dump(raw: Mapping[Any, Any]) -> str:
    if raw:
        return yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True, width=1000)
    return ""


def _read_entry(key: Any, entry: Any) -> tuple[str, LocalUser]:
    user = check_address(key if isinstance(key, str) else str(key))
    try:
        read = msgspec.convert(entry, LocalUser)
    except msgspec.ValidationError as why:
        raise ValueError(f"{why}; {_FIELDS}") from None
    if not _HASH.fullmatch(read.password):
        raise ValueError("password: is not an argon2id hash; `vdi gateway user passwd` creates one")
    return user, read


class LocalUsers:
    """The users of the Secret. An unchanged Secret, by its version, is not parsed again."""

    def __init__(self, client: Client, settings: Settings, passwords: Passwords) -> None:
        self._client = client
        self._namespace, self._secret = settings.gateway_namespace, settings.users_secret
        self._passwords = passwords
        self._version: str | None = None
        self._users: dict[str, LocalUser] = {}

    async def exist(self) -> bool:
        """Whether there were any users at the last read; a login page does not read again for
        this.
        """
        if self._version is None:
            with suppress(UsersUnavailableError):
                await self.read()
        return bool(self._users)

    async def authenticate(self, user: str, password: str) -> tuple[str, LocalUser] | None:
        """The user with this address and password. Raises UsersUnavailableError and
        LoginsBusyError.
        """
        users = await self.read()
        try:
            address = check_address(user)
        except ValueError:
            address = ""
        entry = users.get(address)
        is_right = await self._passwords.check(entry.password if entry else None, password)
        if is_right and entry is not None:
            return (address, entry)
        return None

    async def read(self) -> dict[str, LocalUser]:
        """All users by address; none without the Secret. Raises UsersUnavailableError."""
        where = f"Secret {self._namespace}/{self._secret}"
        try:
            secret = await self._client.get(
                SECRETS, self._secret, namespace=self._namespace, into=dict[str, Any]
            )
        except NotFound:
            self._version, self._users = "", {}
            return self._users
        except KubeError as error:
            raise UsersUnavailableError(f"{where} cannot be read: {error}") from error
        version = secret["metadata"]["resourceVersion"]
        if version != self._version:
            try:
                text = base64.b64decode((secret.get("data") or {}).get(USERS_KEY, "")).decode()
                # In a thread: 2,000 users take 0.3 s.
                users, problems = await asyncio.to_thread(read_users, text)
            except (UserFileError, binascii.Error, UnicodeDecodeError) as error:
                raise UsersUnavailableError(f"{where}: {error}") from error
            for problem in problems:
                log.error("%s: %s; this user cannot log in", where, problem)
            self._version, self._users = version, users
        return self._users
