"""Whether an object still is as we wrote it, read from the server's book of who set which field."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.kube.kube_things import HASH
from vdi.kube.managed_fields import FieldOwnership, FieldOwnershipReader, hash_of, owns_all

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "s",
        "namespace": "ns",
        "labels": {"app": "x"},
        "ownerReferences": [{"uid": "1234-abcd", "name": "o"}],
    },
    "spec": {"selector": {"app": "x"}, "ports": [{"name": "web", "port": 80}], "clusterIP": "None"},
}
PORT = 'k:{"port":80,"protocol":"TCP"}'


def book(**change: Any) -> dict[str, Any]:
    """What the server writes after our POST of SERVICE."""
    spec: dict[str, Any] = {
        "f:selector": {},
        "f:clusterIP": {},
        "f:ports": {".": {}, PORT: {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}},
    }
    metadata: dict[str, Any] = {
        "f:labels": {".": {}, "f:app": {}},
        "f:ownerReferences": {".": {}, 'k:{"uid":"1234-abcd"}': {}},
    }
    return {
        "f:metadata": {**metadata, **change.get("metadata", {})},
        "f:spec": {**spec, **change.get("spec", {})},
    }


def entry(
    fields: dict[str, Any], manager: str = "us", operation: str = "Update", **more: str
) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def body(*entries: dict[str, Any], **live: Any) -> bytes:
    metadata = {**SERVICE["metadata"], "annotations": {HASH: "h"}, "managedFields": list(entries)}
    return msgspec.json.encode(
        {**SERVICE, **live, "metadata": {**metadata, **live.get("metadata", {})}}
    )


def read(*entries: dict[str, Any], **live: Any) -> FieldOwnership:
    return FieldOwnershipReader("us", HASH).read(body(*entries, **live))


def test_created_object_is_owned() -> None:
    mark = read(entry(book()))
    assert owns_all(mark, SERVICE)
    assert (mark.hash, mark.posted) == ("h", True)


def test_applied_object_is_owned_beside_fields_of_others() -> None:
    status = entry({"f:status": {"f:x": {}}}, "us", "Update", subresource="status")
    theirs = entry({"f:metadata": {"f:labels": {"f:other": {}}}, "f:spec": {"f:type": {}}}, "them")
    mark = read(entry(book(), operation="Apply"), theirs, status)
    assert owns_all(mark, SERVICE)
    assert not mark.posted


@pytest.mark.parametrize(
    "lost",
    [
        {"spec": {"f:clusterIP": None}},
        {"spec": {"f:selector": None}},
        {"spec": {"f:ports": {".": {}, 'k:{"port":81,"protocol":"TCP"}': {"f:port": {}}}}},
        {"spec": {"f:ports": {".": {}, PORT: {".": {}, "f:port": {}}}}},
        {"metadata": {"f:labels": {".": {}}}},
        {"metadata": {"f:ownerReferences": {".": {}}}},
    ],
)
def test_field_taken_by_another_manager_is_missed(lost: dict[str, Any]) -> None:
    fields = book(**lost)
    for part in fields.values():
        for name in [name for name, below in part.items() if below is None]:
            del part[name]
    assert not owns_all(read(entry(fields)), SERVICE)


def test_map_with_entries_of_others_is_not_owned() -> None:
    ours = entry(book(metadata={"f:labels": {}}))
    assert owns_all(read(ours), SERVICE), "an atomic map looks like this"
    assert not owns_all(
        read(ours, entry({"f:metadata": {"f:labels": {"f:app": {}}}}, "them")), SERVICE
    )


def test_emptied_map_is_not_owned() -> None:
    assert not owns_all(
        read(entry(book(metadata={"f:labels": {}})), metadata={"labels": {}}), SERVICE
    )


def test_nothing_is_owned_without_managed_fields() -> None:
    assert not owns_all(read(), SERVICE)
    assert not owns_all(read(entry(book(), "them")), SERVICE)


def test_two_entries_of_ours_count_together() -> None:
    posted = book()
    applied = {"f:spec": {"f:clusterIP": posted["f:spec"].pop("f:clusterIP")}}
    assert owns_all(read(entry(posted), entry(applied, operation="Apply")), SERVICE)


def test_requests_for_nothing_need_no_owner() -> None:
    requested = {
        **SERVICE,
        "spec": {**SERVICE["spec"], "annotations": {}, "list": [], "null": None},
    }
    assert owns_all(read(entry(book())), requested)
    assert not owns_all(read(entry(book())), {**requested, "spec": {"sessionAffinity": False}})


def test_sets_are_looked_up_by_value() -> None:
    fields: dict[str, Any] = {"f:metadata": {"f:finalizers": {".": {}, 'v:"a"': {}, 'v:"b"': {}}}}
    requested = {"metadata": {"name": "x", "finalizers": ["a", "b"]}}
    mark = FieldOwnershipReader("us", HASH).read(
        msgspec.json.encode(
            {"metadata": {"finalizers": ["a", "b"], "managedFields": [entry(fields)]}}
        )
    )
    assert owns_all(mark, requested)
    assert not owns_all(mark, {"metadata": {"name": "x", "finalizers": ["a", "c"]}})


def test_equal_field_sets_are_shared() -> None:
    reader = FieldOwnershipReader("us", HASH)
    other = body(entry(book())).replace(b"1234-abcd", b"9999-ffff")
    assert reader.read(body(entry(book()))).fields is reader.read(other).fields


def test_status_does_not_split_shared_fields() -> None:
    reader = FieldOwnershipReader("us", HASH)
    marks = [
        reader.read(
            body(
                entry(book()),
                entry(
                    {"f:status": {"f:podIPs": {f'k:{{"ip":"10.0.0.{number}"}}': {}}}},
                    "kubelet",
                    subresource="status",
                ),
            )
        )
        for number in range(3)
    ]
    assert marks[0].fields is marks[1].fields is marks[2].fields
    assert owns_all(marks[0], SERVICE)


def test_labels_changed_through_the_status_are_not_owned() -> None:
    theirs = entry(
        {"f:metadata": {"f:labels": {"f:app": {}}}, "f:status": {}}, "them", subresource="status"
    )
    assert not owns_all(read(entry(book(metadata={"f:labels": {}})), theirs), SERVICE)


def test_object_that_contradicts_its_managed_fields_is_not_owned() -> None:
    assert not owns_all(read(entry(book()), spec="a string"), SERVICE)


json_values = st.recursive(
    st.integers(1, 9) | st.text("abc", min_size=1, max_size=3),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(
    st.text("abc", min_size=1, max_size=2), json_values, min_size=1, max_size=4
)


def owned(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {}
    return {".": {}} | {f"f:{name}": owned(part) for name, part in value.items()}


def paths(value: Any) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [()]
    return [(name, *rest) for name, part in value.items() for rest in paths(part)]


@given(objects, st.data())
def test_object_is_owned_until_one_leaf_is_taken(spec: dict[str, Any], data: Any) -> None:
    requested = {"metadata": {"name": "x"}, "spec": spec}
    fields = {"f:spec": owned(spec)}
    live = {"metadata": {"managedFields": [entry(fields)]}, "spec": spec}
    assert owns_all(FieldOwnershipReader("us", HASH).read(msgspec.json.encode(live)), requested)
    leaves = paths(spec)
    if leaves:
        path = data.draw(st.sampled_from(leaves))
        tree = fields["f:spec"]
        theirs: dict[str, Any] = {}
        place = theirs.setdefault("f:spec", {})
        for step in path[:-1]:
            tree, place = tree[f"f:{step}"], place.setdefault(f"f:{step}", {})
        del tree[f"f:{path[-1]}"]
        place[f"f:{path[-1]}"] = {}
        taken = {**live, "metadata": {"managedFields": [entry(fields), entry(theirs, "them")]}}
        assert not owns_all(
            FieldOwnershipReader("us", HASH).read(msgspec.json.encode(taken)), requested
        )


@given(objects)
def test_the_hash_does_not_depend_on_the_order_of_keys(requested: dict[str, Any]) -> None:
    assert hash_of(requested) == hash_of(dict(reversed(requested.items())))
    assert hash_of(requested) != hash_of({**requested, "more": 1})
