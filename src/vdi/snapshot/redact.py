"""Redaction of a snapshot, so that it can be given to other people. Its findings are given the same
names. Pure.

E-mail addresses become `person-1@example.invalid`, the same everywhere. Names of homes, which begin
with the user's, are computed again from the new name, so that a home still has one name everywhere.
Values of environment variables were never kept (`objects`); lines of logs that speak of secrets
lose their values here, and so do messages: a pod's status has the last lines of its log. Names of
objects (sessions, templates, nodes) stay: without them nothing could be fixed.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vdi.session.naming import (
    TEMPLATE_ANNOTATION,
    USER_ANNOTATION,
    home_claim_name,
    user_home_claim_name,
)
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.meta import REDACTED

Rename = Callable[[str], str]

_ADDRESS = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
_SECRET = re.compile(
    r"(?i)((?:pass(?:word|wd)?|token|secret|api[_-]?key|credentials?|cookie|authorization)[\"']?\s*[=:]\s*)"
    r"(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|\S+)"
)

# Fields that quote programs: of conditions, container states and failures, and of Events.
_SAID = ("message", "note", "log")


def redact(snapshot: Snapshot) -> Snapshot:
    """The snapshot without names of people, and without values that look like a secret in logs and
    messages.
    """
    rename = names_in(snapshot)
    logs = {key: [_without_secrets(line) for line in lines] for key, lines in snapshot.logs.items()}
    bare = msgspec.structs.replace(snapshot, logs=logs)
    return msgspec.convert(_changed(msgspec.to_builtins(bare), rename), Snapshot)


def _without_secrets(text: str) -> str:
    return _SECRET.sub(rf"\1{REDACTED}", text)


def _changed(value: Any, rename: Rename, key: str = "") -> Any:
    if isinstance(value, str):
        return rename(_without_secrets(value) if key in _SAID else value)
    if isinstance(value, dict):
        return {rename(name): _changed(one, rename, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(one, rename) for one in value]
    return value


def names_in(snapshot: Snapshot) -> Rename:
    """A function that replaces names of people in any text of this snapshot, or about it."""
    everything = msgspec.to_builtins(snapshot)
    people = dict.fromkeys(match for text in _texts(everything) for match in _ADDRESS.findall(text))
    given = {
        name: f"person-{number}@example.invalid" for number, name in enumerate(sorted(people), 1)
    }
    for user, template in _homes(snapshot):
        if user in given:
            given[_claim(user, template)] = _claim(given[user], template)
    given |= {
        user_home_claim_name(user): user_home_claim_name(other)
        for user, other in given.items()
        if "@" in user
    }
    if not given:
        return lambda text: text
    pattern = re.compile("|".join(re.escape(one) for one in sorted(given, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda match: given[match[0]], text)


def _claim(user: str, template: str) -> str:
    return home_claim_name(session_name="", user=user, template=template, retain=True)


def _homes(snapshot: Snapshot) -> set[tuple[str, str]]:
    owners = {(session.spec.user, session.spec.template) for session in snapshot.all_sessions}
    for claim in snapshot.objects.persistentvolumeclaims:
        notes = claim.metadata.annotations
        if USER_ANNOTATION in notes and TEMPLATE_ANNOTATION in notes:
            owners.add((notes[USER_ANNOTATION], notes[TEMPLATE_ANNOTATION]))
    return owners


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
