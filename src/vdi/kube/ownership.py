"""Tells from an object's metadata alone whether it still is as we last wrote it.

The API server keeps book of who set which field (`metadata.managedFields`): when anybody else changes or removes a
field that we set, it ceases to be ours. So an object is as we wrote it exactly when the hash of our wish, which we
leave on it as an annotation, is unchanged and every field of our wish is still ours. That needs no comparison of values
(no defaults, no `1Gi` against `1024Mi`), no memory of our own, no request, and holds across restarts.
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

Fields = dict[str, Any]
_UID = re.compile(rb'(k:\{\\"uid\\":\\")[^"\\]+')


class _Entry(msgspec.Struct, gc=False, rename={"fields": "fieldsV1"}):
    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields: msgspec.Raw = msgspec.Raw(b"{}")


class _Metadata(msgspec.Struct, rename={"managed_fields": "managedFields"}):
    annotations: dict[str, str] | None = None
    managed_fields: list[_Entry] | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata


_decode = msgspec.json.Decoder(_Object).decode


@dataclass(frozen=True, slots=True)
class Mark:
    """What one state of an object says of us."""

    hash: str
    """Our annotation: the hash of the wish that was last written; empty when there is none."""
    fields: tuple[bytes, ...]
    """The field sets that are ours (JSON, fieldsV1), one for each way in which we wrote."""
    posted: bool
    """Whether one of them stems from a POST: see `Applier`."""


class MarkReader:
    """Reads our mark on an object: the hash annotation we wrote, and the fields that the server says are ours.

    Objects made from one builder own the same fields, so equal sets are kept once (`_shared`; it lives as long as the
    process and has as many entries as there are shapes of objects).
    """

    def __init__(self, field_manager: str, annotation: str) -> None:
        self.field_manager = field_manager
        self.annotation = annotation
        self._shared: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}

    def read(self, body: bytes | msgspec.Raw) -> Mark:
        """The mark on an object given as JSON. Raises msgspec.DecodeError when it is none."""
        metadata = _decode(body).metadata
        ours = [e for e in metadata.managed_fields or () if e.manager == self.field_manager and not e.subresource]
        # The owner's uid would make every object's set unique; that we own *an* owner reference is what counts.
        fields = tuple(_UID.sub(rb"\1", bytes(entry.fields)) for entry in ours)
        return Mark(
            (metadata.annotations or {}).get(self.annotation, ""),
            self._shared.setdefault(fields, fields),
            any(entry.operation == "Update" for entry in ours),
        )


def hash_of(wanted: Mapping[str, Any]) -> str:
    """A short hash of a wish; the order of its keys does not matter."""
    return sha256(msgspec.json.encode(wanted, order="deterministic")).hexdigest()[:16]


def owns_all(mark: Mark, wanted: Mapping[str, Any]) -> bool:
    """Whether every field of `wanted` is among those that are ours."""
    trees = [_tree(fields) for fields in mark.fields]
    content = {name: value for name, value in wanted.items() if name not in ("apiVersion", "kind", "metadata")}
    metadata = {name: value for name, value in wanted["metadata"].items() if name not in ("name", "namespace")}
    return _covers(trees, {**content, "metadata": metadata})


@lru_cache(maxsize=1024)
def _tree(fields: bytes) -> Fields:
    tree: Fields = msgspec.json.decode(fields)
    return tree


def _covers(trees: list[Fields], value: Any) -> bool:
    """Whether the ownership trees, taken together, cover this part of the wish."""
    if any(not tree for tree in trees):
        return True  # a leaf: the whole of it is ours, whatever it is
    if isinstance(value, Mapping):
        return all(
            _covers(_below(trees, f"f:{name}"), part) for name, part in value.items() if not _leaves_no_trace(part)
        )
    if isinstance(value, list | tuple):
        return all(_covers(_items(trees, item), item) for item in value)
    return False


def _below(trees: list[Fields], name: str) -> list[Fields]:
    return [tree[name] for tree in trees if name in tree]


def _items(trees: list[Fields], item: Any) -> list[Fields]:
    """The subtrees of one element: of a list keyed by some of its fields (`k:`), or of a set (`v:`)."""
    found = []
    for tree in trees:
        for name, below in tree.items():
            if name.startswith("k:") and isinstance(item, Mapping):
                keys = msgspec.json.decode(name[2:])
                if all(key == "uid" or item.get(key, wanted) == wanted for key, wanted in keys.items()):
                    found.append(below)
            elif name.startswith("v:") and msgspec.json.decode(name[2:]) == item:
                found.append(below)
    return found


def _leaves_no_trace(value: Any) -> bool:
    """Go mostly leaves nulls and empty maps and lists out of what it stores, so that nobody can be seen to own them."""
    return value is None or (isinstance(value, Mapping | list | tuple) and not value)
