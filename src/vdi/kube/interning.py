"""Lets equal strings be one: most of what a decoded object says is said in thousands of others too.

Times, reasons, a namespace, the owner's uid: two fifths of the memory of what the operator keeps.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec.structs import force_setattr

LONGEST = 64
"""Characters; longer ones are sentences, which are rarely said twice."""
REMEMBERED = 16384
UNIQUE = ("resource_version",)
"""Fields that no two objects have in common."""


class StringInterner:
    """Walks through structs and puts the first of equal strings in the place of the others.

    It knows the last few thousand strings; beyond that it is cleared, since equal ones mostly come close together.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._plans: dict[type, _Plan] = {}

    def intern(self, text: str) -> str:
        """The first of all equal strings."""
        return self._known.setdefault(text, text)

    def intern_fields(self, obj: Any) -> None:
        """Change nothing about this struct and those in it but which equal strings they hold."""
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._walk(obj)

    def _walk(self, obj: Any) -> None:
        kind = obj.__class__
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = _Plan.of(kind)
        texts, read_texts, structs, rows, maps = plan
        intern = self._known.setdefault
        for name, value in zip(texts, read_texts(obj), strict=True):
            if value and len(value) <= LONGEST:
                known = intern(value, value)
                if known is not value:
                    force_setattr(obj, name, known)
        for name in structs:
            value = getattr(obj, name)
            if value is not None:
                self._walk(value)
        for name in rows:
            for item in getattr(obj, name):
                self._walk(item)
        for name in maps:
            values = getattr(obj, name)
            for key, value in values.items():
                if len(value) <= LONGEST:
                    values[key] = intern(value, value)


def absorb(known: Any, new: Any) -> bool:
    """Whether a new state of a Kubernetes object differs only in its version, which the known state then has."""
    before = known.metadata.resource_version
    force_setattr(known.metadata, "resource_version", new.metadata.resource_version)
    if known == new:
        return True
    force_setattr(known.metadata, "resource_version", before)
    return False


class _Plan(NamedTuple):
    """Names of the fields of a struct that hold a string, a struct, structs in a row, strings in a map."""

    texts: list[str]
    read_texts: Callable[[Any], tuple[Any, ...]]
    """All of `texts` at once: half as long as one by one."""
    structs: list[str]
    rows: list[str]
    maps: list[str]

    @classmethod
    def of(cls, kind: type[msgspec.Struct]) -> "_Plan":
        """The plan for this struct."""
        texts: list[str] = []
        structs: list[str] = []
        rows: list[str] = []
        maps: list[str] = []
        for field in msgspec.structs.fields(kind):
            types = [part for part in _parts(field.type) if part is not type(None)]
            if field.name in UNIQUE or len(types) != 1:
                continue
            (only,) = types
            inner = [part for argument in get_args(only) for part in _parts(argument)]
            origin = getattr(only, "__origin__", None)
            if only is str:
                texts.append(field.name)
            elif _is_struct(only):
                structs.append(field.name)
            elif origin in (tuple, list) and inner and _is_struct(inner[0]):
                rows.append(field.name)
            elif origin is dict and inner == [str, str]:
                maps.append(field.name)
        return cls(texts, _reader(texts), structs, rows, maps)


def _reader(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda obj: tuple(getattr(obj, name) for name in names)


def _parts(type_: Any) -> list[Any]:
    """The members of a union, without what annotates them."""
    type_ = getattr(type_, "__origin__", type_) if hasattr(type_, "__metadata__") else type_
    members = get_args(type_) if type(type_).__name__ in ("UnionType", "_UnionGenericAlias") else (type_,)
    return [part for member in members for part in (_parts(member) if member is not type_ else [member])]


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
