"""Field ownership: whether an object still is as we last wrote it, from its metadata alone.

The API server records who set which field (`metadata.managedFields`): when somebody else changes or
removes a field that we set, it is no longer ours. So an object is as we wrote it when the hash of
our spec, which we keep on it as an annotation, is unchanged, and every field of our spec is still
ours. That needs no comparison of values (no defaults, no `1Gi` against `1024Mi`), no memory, no
request, and holds across restarts.
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management

One ambiguity: `"f:data": {}` means a map that is ours as a whole, and also one of which we have
lost every entry. It is decided by whether somebody else owns something inside, and whether the map
has entries.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

Tree = dict[str, Any]
Path = tuple[str, ...]
_UID = re.compile(rb'(k:\{\\"uid\\":\\")[^"\\]+')
_UID_KEY = b'k:{\\"uid\\":'
# Begin of an entry that has nothing but status: names are sorted, and `f:metadata` and `f:spec`
# come before.
_STATUS_ALONE = b'{"f:status":'

_NOTHING = (b"", b"{}", b"[]", b"null")
_MAX_SHAPES = 4096


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


class FieldOwnership(msgspec.Struct, frozen=True, gc=False):
    """Our ownership of one state of an object."""

    # Our annotation: the hash of the spec that was last written; empty without one.
    hash: str
    # The fields that are ours, as one tree in JSON (fieldsV1).
    fields: bytes
    # Whether some of them stem from a POST: see `Applier`.
    posted: bool


class _Outline:
    """Looks up some paths in objects, and decodes nothing else of them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._steps: dict[str, str] = {}  # step -> attribute
        for step in {step for path in paths for step in path}:
            self._steps[step] = f"f{len(self._steps)}"
        tree: Tree = {}
        for path in paths:
            below = tree
            for step in path:
                below = below.setdefault(step, {})
        self._decode: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder(
            self._struct(tree)
        ).decode

    def empty_in(self, body: bytes | msgspec.Raw) -> list[Path]:
        """The paths that lead to nothing, or to an empty map or list."""
        try:
            outline = self._decode(body)
        except msgspec.ValidationError:  # not as its own managedFields say
            return list(self._paths)
        return [path for path in self._paths if self._at(outline, path) in _NOTHING]

    def _struct(self, tree: Tree) -> type:
        fields: list[tuple[str, Any, Any]] = []
        for step, below in tree.items():
            if below:
                fields.append((self._steps[step], self._struct(below) | None, None))
            else:
                fields.append((self._steps[step], msgspec.Raw, msgspec.Raw(b"")))
        names = {self._steps[step]: step[2:] for step in tree}  # without the `f:`
        return msgspec.defstruct("Outline", fields, rename=names, gc=False)

    def _at(self, outline: Any, path: Path) -> bytes:
        for step in path:
            outline = getattr(outline, self._steps[step])
            if outline is None:
                return b""
        return bytes(outline)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Ownership according to one set of `managedFields`, whatever the object itself contains."""

    tree: Tree
    fields: bytes
    # The leaves that can be looked up in the object by name alone.
    leaves: _Outline | None
    # `fields` without leaves that an object did not have, computed once for each such set.
    without: dict[tuple[Path, ...], bytes]

    def fields_in(self, body: bytes | msgspec.Raw) -> bytes:
        """The fields that are ours in this object."""
        if self.leaves is None or not (missing := tuple(self.leaves.empty_in(body))):
            return self.fields
        fields = self.without.get(missing)
        if fields is None:
            fields = self.without[missing] = _encode(_without(self.tree, list(missing)))
        return fields


class FieldOwnershipReader:
    """Reads `FieldOwnership` from an object: the hash annotation, and the fields that are ours
    according to the server.

    Objects made by one builder have the same `managedFields`, so each distinct set is evaluated and
    kept once (`_shapes`, which is cleared when it has grown beyond what builders can explain).
    """

    def __init__(self, field_manager: str, annotation: str) -> None:
        self.field_manager = field_manager
        self.annotation = annotation
        self._shapes: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], _Shape] = {}

    def read(self, body: bytes | msgspec.Raw) -> FieldOwnership:
        """Our ownership of an object given as JSON. Raises msgspec.DecodeError for any other
        text.
        """
        metadata = _decode(body).metadata
        ours: list[bytes] = []
        others: list[bytes] = []
        posted = False
        for entry in metadata.managed_fields or ():
            fields = bytes(entry.fields)
            if entry.subresource and fields.startswith(_STATUS_ALONE):
                continue  # not about a spec, and different in every object: a pod's IP is a key in it
            if _UID_KEY in fields:
                # The owner's uid would make each object's entries unique; it counts only that an
                # owner reference is ours.
                fields = _UID.sub(rb"\1", fields)
            if entry.manager == self.field_manager and not entry.subresource:
                ours.append(fields)
                posted = posted or entry.operation == "Update"
            else:
                others.append(fields)
        fields = self._shape(tuple(ours), tuple(others)).fields_in(body)
        return FieldOwnership((metadata.annotations or {}).get(self.annotation, ""), fields, posted)

    def _shape(self, ours: tuple[bytes, ...], others: tuple[bytes, ...]) -> _Shape:
        shape = self._shapes.get((ours, others))
        if shape is None:
            tree: Tree = {}
            for fields in ours:
                merge_trees(tree, msgspec.json.decode(fields))
            contested: Tree = {}
            for fields in others:
                merge_trees(contested, msgspec.json.decode(fields))
            tree = _without(tree, [path for path in _leaves(tree) if _at(contested, path)])
            named = []
            for path in _leaves(tree):
                if all(step.startswith("f:") for step in path):
                    named.append(path)
            shape = _Shape(tree, _encode(tree), _Outline(named) if named else None, {})
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[ours, others] = shape
        return shape


def hash_of(desired: Mapping[str, Any]) -> str:
    """A short hash of a spec; the order of its keys does not matter."""
    return sha256(msgspec.json.encode(desired, order="deterministic")).hexdigest()[:16]


def owns_all(mark: FieldOwnership, desired: Mapping[str, Any]) -> bool:
    """Whether every field of `desired` is among those that are ours."""
    content = {
        name: value
        for name, value in desired.items()
        if name not in ("apiVersion", "kind", "metadata")
    }
    metadata = {
        name: value
        for name, value in desired["metadata"].items()
        if name not in ("name", "namespace")
    }
    return _covers(_tree(mark.fields) or None, {**content, "metadata": metadata})


def merge_trees(target: Tree, more: Tree) -> None:
    """Add to `target` what `more` owns beyond it."""
    for name, below in more.items():
        merge_trees(target.setdefault(name, {}), below)


@lru_cache(maxsize=1024)
def _tree(fields: bytes) -> Tree:
    tree: Tree = msgspec.json.decode(fields)
    return tree


def _encode(tree: Tree) -> bytes:
    return msgspec.json.encode(tree, order="deterministic")


def _covers(tree: Tree | None, value: Any) -> bool:
    """Whether this part of the spec is ours. An empty tree is a leaf: the whole of it is ours,
    whatever it is.
    """
    if tree is None:
        return False
    if not tree:
        return True
    if isinstance(value, dict):
        return all(
            _covers(tree.get(f"f:{name}"), part)
            for name, part in value.items()
            if not _is_empty(part)
        )
    if isinstance(value, (list, tuple)):
        return all(_covers(_element(tree, item), item) for item in value)
    return False


def _element(tree: Tree, item: Any) -> Tree | None:
    """The subtree of one element: of a list keyed by some of its fields (`k:`), or of a set
    (`v:`).
    """
    for name, below in tree.items():
        if name.startswith("k:") and isinstance(item, dict):
            keys = msgspec.json.decode(name[2:])
            # A key that the spec leaves out has the server's default there (a port's protocol).
            if all(
                key == "uid" or item.get(key, desired) == desired for key, desired in keys.items()
            ):
                return below  # type: ignore[no-any-return]
        elif name.startswith("v:") and msgspec.json.decode(name[2:]) == item:
            return below  # type: ignore[no-any-return]
    return None


def _leaves(tree: Tree, path: Path = ()) -> Iterator[Path]:
    for name, below in tree.items():
        if name == ".":
            continue
        if below:
            yield from _leaves(below, (*path, name))
        else:
            yield (*path, name)


def _at(tree: Any, path: Sequence[str]) -> Any:
    for step in path:
        if not isinstance(tree, dict) or step not in tree:
            return None
        tree = tree[step]
    return tree


def _without(tree: Tree, paths: list[Path]) -> Tree:
    """A copy in which these leaves are not; the maps that held them stay, no longer as leaves."""
    copy: Tree = {".": {}, **tree} if paths else tree
    for name in {path[0] for path in paths}:
        inner = [path[1:] for path in paths if path[0] == name and len(path) > 1]
        if inner:
            copy[name] = _without(tree[name], inner)
        else:
            del copy[name]
    return copy


def _is_empty(value: Any) -> bool:
    """Go mostly leaves nulls and empty maps and lists out of what it stores, so they have no
    manager.
    """
    return value is None or (isinstance(value, (dict, list, tuple)) and not value)
