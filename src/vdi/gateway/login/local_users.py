"""Local users: entries of the Secret `vdi-gateway-users` (key `users.yaml`), and their password hashes (argon2id).

alice@example.com:
  password: $argon2id$v=19$m=32768,t=3,p=1$...
  name: Alice Liddell      # these three may be left out
  groups: [engineering]
  admin: false

The gateway checks logins with it, and `vdi gateway user` edits the entries. A hash takes 50 ms of a core, so the number
that is computed at once is bounded.
"""

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from vdi.session.users import check_address, normal_user

# Bytes of a password. Longer ones are wrong before anything is computed.
MAX_PASSWORD_BYTES = 1024

# Characters of a new password.
MIN_PASSWORD_CHARACTERS = 10
# Hashes computed at a time; each takes MEMORY_KIB.
MAX_HASHES = 2
# A login that would wait behind more than these is refused for now.
MAX_WAITING = 50
MEMORY_KIB = 32 * 1024
_TIME_COST = 3
# Letters and digits that are not mistaken for each other.
_NO_BREAKS = "abcdefghjkmnpqrstuvwxyz23456789"


class BusyError(Exception):
    """Raised when too many passwords wait to be checked."""


class Passwords:
    """Makes and checks hashes, in threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=_TIME_COST, memory_cost=MEMORY_KIB, parallelism=1)
        self._dummy = self._hasher.hash(secrets.token_urlsafe(16))
        self._turn = asyncio.Semaphore(MAX_HASHES)
        self._waiting = 0

    def make_hash(self, password: str) -> str:
        """The hash to store. Raises ValueError for a password that is too short or too long."""
        data = _normalized(password)
        if len(password) < MIN_PASSWORD_CHARACTERS:
            raise ValueError(f"the password has {len(password)} characters; allowed: {MIN_PASSWORD_CHARACTERS} or more")
        if len(data) > MAX_PASSWORD_BYTES:
            raise ValueError(f"the password has {len(data)} bytes; allowed: at most {MAX_PASSWORD_BYTES}")
        return self._hasher.hash(data)

    async def check(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. With `stored` None (no such user) it takes the same time and is wrong.

        Raises BusyError.
        """
        if self._waiting >= MAX_WAITING:
            raise BusyError("too many users are logging in right now")
        self._waiting += 1
        try:
            async with self._turn:
                data = _normalized(password)
                fits = 0 < len(data) <= MAX_PASSWORD_BYTES
                right = await asyncio.to_thread(self._verify, stored or self._dummy, data if fits else b"")
        finally:
            self._waiting -= 1
        return right and fits and stored is not None

    def _verify(self, stored: str, data: bytes) -> bool:
        try:
            return self._hasher.verify(stored, data)
        except (Argon2Error, InvalidHashError):
            return False


def new_password() -> str:
    """A generated one: 100 bits in four groups."""
    groups = ("".join(secrets.choice(_NO_BREAKS) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def _normalized(password: str) -> bytes:
    """One way to write each accented letter, whatever the keyboard sent (NFC, as RFC 8265 says)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


USERS_KEY = "users.yaml"
_HASH = re.compile(r"\$argon2id\$v=19\$m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_FIELDS = "allowed: password, name, groups and admin"


class LocalUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry."""

    # An argon2id hash.
    password: str
    name: str = ""
    groups: tuple[str, ...] = ()
    admin: bool = False

    def __repr__(self) -> str:
        return f"LocalUser(name={self.name!r}, groups={self.groups!r}, admin={self.admin!r})"


class UserFileError(Exception):
    """Raised when the users cannot be read at all. Shows nothing of the file: there are hashes in it."""


def read_users(text: str) -> tuple[dict[str, LocalUser], list[str]]:
    """The users that can be used, and what is wrong with the others: one bad entry locks no one else out."""
    users: dict[str, LocalUser] = {}
    problems = []
    for key, entry in _load(text).items():
        try:
            user, read = _read_entry(key, entry)
            if user in users:
                raise ValueError("is listed twice; allowed: one entry, because upper and lower case are the same")
        except ValueError as why:
            problems.append(f"{USERS_KEY}: {str(key)[:260]!r}: {why}")
        else:
            users[user] = read
    return users, problems


def write_users(users: Mapping[str, LocalUser]) -> str:
    """The text for the Secret."""
    return _dump({user: msgspec.to_builtins(users[user]) for user in sorted(users)})


def change_user(text: str, user: str, entry: LocalUser | None) -> str:
    """The text with this entry in the place of what the user has there, or without it. Others stay, even bad ones."""
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
            f"{USERS_KEY} is of type {type(raw).__name__}; allowed: a mapping from e-mail addresses to users"
        )
    return raw


def _dump(raw: Mapping[Any, Any]) -> str:
    return yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True, width=1000) if raw else ""


def _read_entry(key: Any, entry: Any) -> tuple[str, LocalUser]:
    user = check_address(key if isinstance(key, str) else str(key))
    try:
        read = msgspec.convert(entry, LocalUser)
    except msgspec.ValidationError as why:
        raise ValueError(f"{why}; {_FIELDS}") from None
    if not _HASH.fullmatch(read.password):
        raise ValueError("password: is not an argon2id hash; `vdi gateway user passwd` creates one")
    return user, read
