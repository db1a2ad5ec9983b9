"""Live objects compared with the manifest that Helm installed. Pure; `vdi.doctor.installed` reads
both.

Only fields that the manifest sets count, and fields that a person's tool has added. In
`managedFields`, defaults and changes by webhooks belong to Helm: they are no differences, nor are
fields of controllers. No value that may be a secret leaves this module.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from vdi.cluster.units import parse_quantity
from vdi.printable import shorten
from vdi.settings import VARIABLES
from vdi.snapshot.model import NOT_SET, Difference
from vdi.snapshot.objects.meta import REDACTED

Object = Mapping[str, Any]
_Path = tuple[str, ...]

# Managers of fields that are programs: they decide about the field, and no one has to put it back.
_PROGRAM = re.compile(
    r"controller|manager|operator|gateway|injector|autoscaler|scheduler|kubelet|apiserver|^k3s|^rke2"
)
_HELM = re.compile(r"^helm(-|$)")
_STATUS = "status"
# Annotation of objects with content of their own.
_KEEP = "helm.sh/resource-policy"
# Keys by which elements of a list are the same in manifest and object, the first that all of them
# have.
_KEYS = ("name", "containerPort", "port", "mountPath", "key", "topologyKey")
_SECRET_PATH = re.compile(
    r"^(binary|string)?data$|^value$|annotations|args|command|header|password|token|credential",
    re.IGNORECASE,
)
# Where people and programs may add: notes, the time of a restart, and the content of Secrets and
# ConfigMaps.
_OPEN = frozenset({"metadata", "annotations", "labels", "data"})
_EMPTY: tuple[Any, ...] = (None, "", False, [])
_LONG = 200


class _Owner(NamedTuple):
    """A manager of fields, with its part of the tree at the current path; empty: it has all of
    it.
    """

    manager: str
    time: str
    fields: Mapping[str, Any]

    @property
    def is_person(self) -> bool:
        return not _HELM.search(self.manager) and not _PROGRAM.search(self.manager)


def compare(
    desired: Object, live: Object | None, release: str, rollback: str
) -> Iterator[Difference]:
    """Differences of an object of this release (NAMESPACE/NAME) from its manifest; None: it does
    not exist.
    """
    kind, meta = str(desired["kind"]), desired["metadata"]
    make = partial(
        Difference,
        object="/".join(
            part for part in (kind.lower(), meta.get("namespace"), meta["name"]) if part
        ),
        release=release,
        rollback=rollback,
        component=(meta.get("labels") or {}).get("app.kubernetes.io/component", ""),
        has_data=(meta.get("annotations") or {}).get(_KEEP) == "keep",
    )
    if live is None:
        yield make()
        return
    owners = _owners_of(live)
    people = sorted((owner for owner in owners if owner.is_person), key=lambda owner: owner.time)
    for path, wanted, found, at in _compare_values(desired, live, (), owners):
        if path[:1] in (("apiVersion",), ("kind",), (_STATUS,)):
            continue
        by = [owner for owner in at if owner.is_person] or ([] if at else people)
        if at and not by:
            continue
        last = max(by, key=lambda owner: owner.time, default=_Owner("", "", {}))
        yield make(
            field=_spell(path),
            expected=_show(kind, path, wanted),
            observed=_show(kind, path, found),
            manager=last.manager,
            time=last.time,
        )


def _owners_of(live: Object) -> list[_Owner]:
    owners = []
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("subresource") != _STATUS and entry.get("fieldsV1"):
            manager, time = str(entry.get("manager", "")), str(entry.get("time", ""))
            owners.append(_Owner(manager, time, entry["fieldsV1"]))
    return owners


_Found = Iterator[tuple[_Path, Any, Any, Sequence[_Owner]]]


def _compare_values(wanted: Any, found: Any, path: _Path, owners: Sequence[_Owner]) -> _Found:
    """Path, value in the manifest, value in the object (None: there is none), and the managers of
    the field.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            if value is None:
                continue  # the chart leaves the field to the API server
            yield from _compare_values(
                value, found.get(key), (*path, key), _step(owners, f"f:{key}")
            )
        if not _OPEN & {*path[-2:]}:
            yield from _added(wanted, found, path, owners)
    elif isinstance(wanted, list) and isinstance(found, list) and _keyed(wanted, found):
        key = _keyed(wanted, found)
        new, old = ({str(item[key]): item for item in items} for items in (wanted, found))
        for name in {**new, **old}:
            here = _element(owners, key, (old.get(name) or new[name])[key])
            yield from _compare_values(new.get(name), old.get(name), (*path, f"[{name}]"), here)
    elif (
        isinstance(wanted, list)
        and isinstance(found, list)
        and all(isinstance(one, Mapping) for one in wanted)
    ):
        yield from _compare_rows(wanted, found, path, owners)
    elif not _is_same(wanted, found, path):
        yield path, wanted, found, owners


def _compare_rows(
    wanted: list[Any], found: list[Any], path: _Path, owners: Sequence[_Owner]
) -> _Found:
    """Rows without a name, such as rules: those of one list that are in the other are the same,
    wherever they stand.
    """

    def is_there(row: Any, live: Any) -> bool:
        return not any(_compare_values(row, live, (), ()))

    lost = [
        (number, row)
        for number, row in enumerate(wanted)
        if not any(is_there(row, live) for live in found)
    ]
    new = [
        (number, live)
        for number, live in enumerate(found)
        if not any(is_there(row, live) for row in wanted)
    ]
    for (number, row), (place, live) in zip_longest(lost, new, fillvalue=(None, None)):
        here = (*path, f"[{place if number is None else number}]")
        if number is None or place is None:
            yield here, row, live, owners
        else:
            yield from _compare_values(row, live, here, owners)


def _added(wanted: Object, found: Object, path: _Path, owners: Sequence[_Owner]) -> _Found:
    """Fields that a person's tool has added beside those of the manifest."""
    for owner in owners:
        # A map such as a selector is written as a whole.
        keys = [key.removeprefix("f:") for key in owner.fields] or list(found)
        for key in keys if owner.is_person else ():
            # Who scales a workload decides about its replicas, who writes a Secret's content about
            # `immutable`, as a backup has it.
            others = (*_OPEN, _STATUS, "replicas", "immutable")
            if key in found and key not in wanted and key not in others:
                yield (*path, key), None, found[key], [owner]


def _step(owners: Sequence[_Owner], key: str) -> list[_Owner]:
    """The managers of a field below."""
    return [
        owner._replace(fields=owner.fields.get(key) or {})
        for owner in owners
        if not owner.fields or key in owner.fields
    ]


def _element(owners: Sequence[_Owner], key: str, value: Any) -> list[_Owner]:
    """The managers of an element of a list."""
    inner = []
    for owner in owners:
        if not owner.fields:
            inner.append(owner)
        for text, fields in owner.fields.items():
            if text.startswith("k:") and json.loads(text[2:]).get(key) == value:
                inner.append(owner._replace(fields=fields))
    return inner


def _keyed(wanted: Sequence[Any], found: Sequence[Any]) -> str:
    """The key that names each element in both lists; empty: there is none."""
    for key in _KEYS:
        lists = [
            [item.get(key) for item in items if isinstance(item, Mapping)]
            for items in (wanted, found)
        ]
        if all(None not in names and len({*names}) == len(names) for names in lists) and lists[0]:
            if len(lists[0]) == len(wanted) and len(lists[1]) == len(found):
                return key
            return ""
    return ""


def _is_same(wanted: Any, found: Any, path: _Path) -> bool:
    # The API server leaves out what is empty, but for a map, whose presence may mean something:
    # `status: {}`.
    if str(wanted) == str(found) or (wanted in _EMPTY and found in _EMPTY):
        return True
    try:
        grown = path[-2:] == ("requests", "storage") and parse_quantity(found) > parse_quantity(
            wanted
        )
        return parse_quantity(wanted) == parse_quantity(found) or grown
    except (ValueError, TypeError):
        return False


def _spell(path: _Path) -> str:
    return "".join(part if part.startswith("[") else f".{part}" for part in path).lstrip(".")


def _show(kind: str, path: _Path, value: Any) -> str:
    """A value as findings show it: nothing of Secrets, nor of what may hold a password."""
    if value is None:
        return NOT_SET
    if path[-1] == "value" and path[-3:-2] == ("env",):
        is_secret = path[-2][1:-1] not in VARIABLES
    else:
        is_secret = kind == "Secret" or any(map(_SECRET_PATH.search, path))
    if is_secret and not isinstance(value, bool):
        return REDACTED
    return shorten(value if isinstance(value, str) else _text(value), _LONG)


def _text(value: Any) -> str:
    """A value as JSON, without what may be a secret below."""
    if isinstance(value, Mapping):
        parts = (
            f"{key}: {REDACTED if _SECRET_PATH.search(str(key)) else _text(one)}"
            for key, one in value.items()
        )
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str):
        return value
    return json.dumps(value)
