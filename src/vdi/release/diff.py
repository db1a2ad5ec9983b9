"""Difference between two sets of objects of a release, field by field, and losses by a change of
CRDs. Pure.

The content of Secrets is never shown.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vdi.helm.releases import KEEP
from vdi.kube.resource import CRDS
from vdi.printable import shorten
from vdi.snapshot.objects import convert_object
from vdi.snapshot.objects.config import CustomResourceDefinition

Object = Mapping[str, Any]
CRD_KIND = "CustomResourceDefinition"
_HOOK = "helm.sh/hook"
_HIDDEN = "(not shown)"
# They change in every object when the chart's version does, and say nothing.
_VERSION_LABELS = ("helm.sh/chart", "app.kubernetes.io/version")
# Kinds that are in no namespace, of those that charts of ours make.
_CLUSTER_SCOPED = {
    *("Namespace", CRD_KIND, "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy"),
    *(
        "ValidatingAdmissionPolicyBinding",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ClusterIssuer",
    ),
    *("VDITemplate", "VDIPool"),
}
_LONG = 100
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Field:
    """One field that changes. A value that was not or will not be there has the value None and the
    sign `-` or `+`.
    """

    path: str
    sign: str
    before: Any = None
    after: Any = None

    @property
    def lines(self) -> list[str]:
        """As it is shown; a text of several lines as a diff."""
        texts = (self.before, self.after)
        if any(isinstance(text, str) and "\n" in text for text in texts):
            return [f"{self.sign} {self.path}:", *(f"    {line}" for line in _text_diff(*texts))]
        before, after = _short(self.before), _short(self.after)
        shown = {"+": after, "-": before}.get(self.sign, f"{before} -> {after}")
        return [f"{self.sign} {self.path}: {shown}"]


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One object that is made, changed, removed, or kept although it leaves the release."""

    # `+`, `~`, `-`, or `=` for an object that stays on the cluster when it leaves the release.
    action: str
    kind: str
    namespace: str
    name: str
    fields: tuple[Field, ...] = ()

    @property
    def title(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"


def changes_between(
    before: Iterable[Object], after: Iterable[Object], namespace: str
) -> list[ObjectChange]:
    """Changes from one set of objects to the other. `namespace` is that of objects that name
    none.
    """
    old, new = _by_name(before, namespace), _by_name(after, namespace)
    changes = []
    for key in sorted({*old, *new}):
        kind, where, name = key
        if key not in old:
            changes.append(ObjectChange("+", kind, where, name))
        elif key not in new:
            kept = old[key]["metadata"].get("annotations", {}).get(KEEP) == "keep"
            changes.append(ObjectChange("=" if kept else "-", kind, where, name))
        elif fields := tuple(_fields(old[key], new[key])):
            changes.append(ObjectChange("~", kind, where, name, fields))
    return changes


def is_hook(obj: Object) -> bool:
    """Whether Helm makes it beside the release, at some event."""
    return _HOOK in obj["metadata"].get("annotations", {})


def _by_name(objects: Iterable[Object], namespace: str) -> dict[tuple[str, str, str], Object]:
    objects_by_name = {}
    for obj in objects:
        meta = obj["metadata"]
        if is_hook(obj):
            continue
        where = meta.get("namespace") or ("" if obj["kind"] in _CLUSTER_SCOPED else namespace)
        objects_by_name[str(obj["kind"]), str(where), str(meta["name"])] = obj
    return objects_by_name


def _fields(before: Object, after: Object) -> Iterator[Field]:
    secret = after["kind"] == "Secret"
    for key in sorted({*before, *after}):
        for field in _compare(before.get(key, _ABSENT), after.get(key, _ABSENT), key):
            if any(field.path.endswith(f".labels.{label}") for label in _VERSION_LABELS):
                continue
            yield _hidden(field) if secret and key in ("data", "stringData") else field


def _hidden(field: Field) -> Field:
    """The field of a Secret, with nothing of its content."""
    path = ".".join(field.path.split(".")[:2])
    return Field(
        path,
        field.sign,
        _HIDDEN if field.before is not None else None,
        _HIDDEN if field.after is not None else None,
    )


def _compare(before: Any, after: Any, path: str) -> Iterator[Field]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}, key=str):
            yield from _compare(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        yield from _compare_lists(before, after, path)
    elif before is _ABSENT or after is _ABSENT:
        yield from _whole(before, after, path)
    elif before != after:
        yield Field(path, "~", before, after)


def _whole(before: Any, after: Any, path: str) -> Iterator[Field]:
    """A value that comes or goes: its leaves, unless it is small."""
    is_new = before is _ABSENT
    value = after if is_new else before
    if isinstance(value, Mapping) and len(str(value)) > _LONG:
        for key, inner in value.items():
            old, new = (_ABSENT, inner) if is_new else (inner, _ABSENT)
            yield from _whole(old, new, f"{path}.{key}")
    else:
        yield Field(path, "+", None, value) if is_new else Field(path, "-", value, None)


def _compare_lists(before: list[Any], after: list[Any], path: str) -> Iterator[Field]:
    """By name, where all elements have one of their own; else by position."""
    names = _names(before), _names(after)
    if names[0] is None or names[1] is None:
        yield from _compare_by_position(before, after, path)
        return
    old_by = dict(zip(names[0], before, strict=True))
    new_by = dict(zip(names[1], after, strict=True))
    for name in dict.fromkeys([*old_by, *new_by]):
        yield from _compare(old_by.get(name, _ABSENT), new_by.get(name, _ABSENT), f"{path}[{name}]")


def _compare_by_position(before: list[Any], after: list[Any], path: str) -> Iterator[Field]:
    """Elements by position; an insertion in the middle moves the rest without changing it."""
    matcher = difflib.SequenceMatcher(
        None, list(map(_json, before)), list(map(_json, after)), autojunk=False
    )
    for action, begin, end, to_begin, to_end in matcher.get_opcodes():
        if action == "equal":
            continue
        for number in range(max(end - begin, to_end - to_begin)):
            old = before[begin + number] if begin + number < end else _ABSENT
            if to_begin + number < to_end:
                new = after[to_begin + number]
            else:
                new = _ABSENT
            yield from _compare(
                old, new, f"{path}[{(begin if new is _ABSENT else to_begin) + number}]"
            )


def _names(elements: list[Any]) -> list[str] | None:
    names = [element.get("name") if isinstance(element, Mapping) else None for element in elements]
    if None not in names and len({*names}) == len(names):
        return [str(name) for name in names]
    return None


def _short(value: Any) -> str:
    return shorten(value if isinstance(value, str) and value else _json(value), _LONG)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _text_diff(before: Any, after: Any) -> Iterator[str]:
    old, new = (
        (text or "").splitlines() if isinstance(text or "", str) else [_json(text)]
        for text in (before, after)
    )
    for line in difflib.unified_diff(old, new, lineterm="", n=1):
        if not line.startswith(("---", "+++", "@@")):
            yield shorten(line, _LONG)


class Loss(NamedTuple):
    """Versions and fields that a change of a CRD would take away."""

    crd: str
    # Versions in which objects are stored, that the new CRD does not have: the API server refuses
    # that.
    stored: tuple[str, ...]
    # Fields that the API server would drop from every object that is written.
    fields: tuple[str, ...]


def crds_of(objects: Iterable[Object]) -> list[Object]:
    return [obj for obj in objects if obj["kind"] == CRD_KIND]


def read_crds(objects: Iterable[Object]) -> list[CustomResourceDefinition]:
    return [convert_object(CRDS.plural, crd) for crd in crds_of(objects)]


def losses(
    there: Iterable[CustomResourceDefinition], desired: Iterable[CustomResourceDefinition]
) -> list[Loss]:
    """Losses by replacing the cluster's CRDs with the desired ones."""
    old = {crd.metadata.name: crd for crd in there}
    all_losses = []
    for new in desired:
        before = old.get(new.metadata.name)
        if before is None:
            continue
        schemas = {version.name: version.schema.open_api for version in new.spec.versions}
        lost: list[str] = []
        for version in before.spec.versions:
            if version.name in schemas:
                paths = version.schema.open_api.missing_in(schemas[version.name])
                lost += [f"{version.name}: {path}" for path in paths]
        gone = tuple(name for name in before.status.stored_versions if name not in schemas)
        if gone or lost:
            all_losses.append(Loss(new.metadata.name, gone, tuple(lost)))
    return all_losses
