"""Interning of equal parts of decoded objects, most of which thousands of others contain, too.

Strings (times, reasons, a namespace) were two fifths of the operator's memory. Whole immutable
values are kept once as well: finalizers, the owner of four children.
"""

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec
from msgspec.structs import force_setattr

Shared = TypeVar("Shared", bound=Hashable)

# Characters; longer ones are sentences, which are rarely repeated.
LONGEST = 64

REMEMBERED = 16384
# Fields that no two objects have in common.
UNIQUE = ("resource_version",)
# In the place of every map that has no entry; never changed, as no part of a shared object is.
_EMPTY: dict[str, str] = {}


class Interner:
    """Walks through structs and puts the first of equal strings, and of equal immutable values, in
    the others' place.

    It knows the last few thousand; beyond that it is cleared, since equal ones mostly come close
    together.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._plans: dict[type, _Plan] = {}

    def intern(self, value: Shared) -> Shared:
        """The first of all equal strings, tuples and other values that cannot be changed."""
        first: Shared = self._known.setdefault(value, value)
        return first

    def intern_fields(self, obj: Any) -> None:
        """Change nothing about this struct and those in it but which equal parts they hold."""
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._walk(obj)

    def _walk(self, obj: Any) -> None:
        kind = obj.__class__
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = _Plan.of(kind)
        intern = self._known.setdefault
        for name, value in zip(plan.texts, plan.read_texts(obj), strict=True):
            if value and len(value) <= LONGEST:
                known = intern(value, value)
                if known is not value:
                    force_setattr(obj, name, known)
        for name in plan.wholes:
            value = getattr(obj, name)
            if value:
                known = self._known.get(value)
                if known is None:
                    self._walk_whole(value)
                    self._known[value] = value
                elif known is not value:
                    force_setattr(obj, name, known)
        for name in plan.structs:
            value = getattr(obj, name)
            if value is not None:
                self._walk(value)
        for name in plan.rows:
            for item in getattr(obj, name):
                self._walk(item)
        for name in plan.maps:
            shared = {
                intern(key, key): self._intern_short(value)
                for key, value in getattr(obj, name).items()
            }
            force_setattr(obj, name, shared or _EMPTY)

    def _intern_short(self, text: str) -> str:
        if len(text) <= LONGEST:
            return self.intern(text)
        return text

    def _walk_whole(self, value: Any) -> None:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, msgspec.Struct):
                self._walk(part)


def absorb(known: Any, new: Any) -> bool:
    """Whether a new state of a Kubernetes object differs only in its version, which the known state
    then has.
    """
    before = known.metadata.resource_version
    force_setattr(known.metadata, "resource_version", new.metadata.resource_version)
    if known == new:
        return True
    force_setattr(known.metadata, "resource_version", before)
    return False


class _Plan(NamedTuple):
    """Names of the fields of a struct that hold a string, an immutable whole, a struct, structs in
    a row, a map.
    """

    texts: list[str]
    # All of `texts` at once: half as long as one by one.
    read_texts: Callable[[Any], tuple[Any, ...]]
    wholes: list[str]
    structs: list[str]
    rows: list[str]
    maps: list[str]

    @classmethod
    def of(cls, kind: type[msgspec.Struct]) -> "_Plan":
        texts: list[str] = []
        wholes: list[str] = []
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
                (wholes if _is_immutable(only) else structs).append(field.name)
            elif origin is tuple and inner and _is_immutable(inner[0]):
                wholes.append(field.name)
            elif origin in (tuple, list) and inner and _is_struct(inner[0]):
                rows.append(field.name)
            elif origin is dict and inner == [str, str]:
                maps.append(field.name)
        return cls(texts, _reader(texts), wholes, structs, rows, maps)


def _reader(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda obj: tuple(getattr(obj, name) for name in names)


def _parts(type_: Any) -> list[Any]:
    """The members of a union, without what annotates them."""
    if hasattr(type_, "__metadata__"):
        type_ = getattr(type_, "__origin__", type_)
    if type(type_).__name__ in ("UnionType", "_UnionGenericAlias"):
        members = get_args(type_)
    else:
        members = (type_,)
    return [
        part for member in members for part in (_parts(member) if member is not type_ else [member])
    ]


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _is_immutable(type_: Any) -> bool:
    """Whether values of this type can be compared by a hash, all that is in them too."""
    if not _is_struct(type_):
        return type_ in (str, int, float, bool, type(None))
    fields = msgspec.structs.fields(type_)
    return type_.__struct_config__.frozen and all(
        _is_immutable(part) for f in fields for part in _parts(f.type)
    )
