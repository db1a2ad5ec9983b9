"""The local users, as the Secret `vdi-gateway-users` keeps them under the key `users.yaml`. Pure; no password is here.

alice@example.com:
  password: $argon2id$v=19$m=32768,t=3,p=1$...
  name: Alice Liddell      # these three may be left out
  groups: [engineering]
  admin: false
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from vdi.gateway.users import check_address, normal_user

KEY = "users.yaml"
_HASH = re.compile(r"\$argon2id\$v=19\$m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_FIELDS = "allowed: password, name, groups and admin"


class LocalUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry."""

    password: str
    """An argon2id hash."""
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
            problems.append(f"{KEY}: {str(key)[:260]!r}: {why}")
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
        raise UserFileError(f"{KEY} is not valid YAML{where}") from None
    if not isinstance(raw, dict):
        raise UserFileError(f"{KEY} is of type {type(raw).__name__}; allowed: a mapping from e-mail addresses to users")
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
