"""Changes to objects as values: before, after, the merge patch between them, and the diff for a
person. Pure.

`vdi gpu configure` and `vdi doctor --fix` show and apply these.
"""

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from vdi.kube.resource import Resource

Raw = Mapping[str, Any]

_SERVERS_OWN = ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields")


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `before` None: the object is created; `after` None: it is deleted."""

    resource: Resource
    name: str
    before: Raw | None
    after: Raw | None

    @property
    def namespace(self) -> str | None:
        either = self.after if self.after is not None else self.before
        if either and self.resource.namespaced:
            return str(either["metadata"]["namespace"])
        return None

    @property
    def patch(self) -> dict[str, Any]:
        """The merge patch from before to after."""
        return patch_between(self.before or {}, self.after or {})

    @property
    def title(self) -> str:
        """The change in words: `change ConfigMap gpu-operator/x`."""
        verb = "change"
        if self.before is None:
            verb = "make"
        elif self.after is None:
            verb = "delete"
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{verb} {self.resource.kind} {place}{self.name}"


def change_between(resource: Resource, before: Raw | None, after: Raw | None) -> Change | None:
    """The change, or None when the objects are equal."""
    if before == after:
        return None
    either = after if after is not None else before
    return Change(resource, str((either or {})["metadata"]["name"]), before, after)


def patch_between(before: Raw, after: Raw) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that makes `after` of `before`. Neither may have null
    values.
    """
    patch: dict[str, Any] = dict.fromkeys(key for key in before if key not in after)
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := patch_between(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = copy.deepcopy(value)
    return patch


def with_field(obj: Raw, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of the object with this field set, or without it for None; parents that become empty
    stay.
    """
    new = copy.deepcopy(dict(obj))
    place = new
    for key in path[:-1]:
        if value is None and key not in place:
            return new
        place[key] = dict(place.get(key) or {})
        place = place[key]
    if value is None:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value
    return new


def diff_lines(change: Change) -> list[str]:
    """The change as a unified diff of the object's YAML, without what the API server keeps for
    itself.
    """
    place = f"{change.namespace}/" if change.namespace else ""
    label = f"{change.resource.kind} {place}{change.name}"
    old, new = (
        to_yaml(_readable(each)).splitlines() if each is not None else []
        for each in (change.before, change.after)
    )
    return list(difflib.unified_diff(old, new, f"{label} (now)", f"{label} (then)", lineterm=""))


def _readable(obj: Raw) -> dict[str, Any]:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS_OWN}
    return {key: value for key, value in {**obj, "metadata": metadata}.items() if key != "status"}


class _Dumper(yaml.SafeDumper):
    """YAML with texts of several lines as they are read."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


_Dumper.add_representer(str, _text)


def to_yaml(obj: Raw) -> str:
    """An object as YAML, keys in their order."""
    return yaml.dump(dict(obj), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
