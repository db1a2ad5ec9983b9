"""What a change of CRDs would lose."""

from typing import Any

from vdi.release.diff import losses


def a_crd(
    fields: dict[str, Any], *, versions: tuple[str, ...] = ("v1",), stored: tuple[str, ...] = ("v1",)
) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"properties": fields}}}}
    return {
        "metadata": {"name": "things.example.com"},
        "spec": {"versions": [{"name": version, "schema": schema} for version in versions]},
        "status": {"storedVersions": list(stored)},
    }


TEXT = {"type": "string"}


def test_more_fields_lose_nothing() -> None:
    assert losses([a_crd({"a": TEXT})], [a_crd({"a": TEXT, "b": TEXT})]) == []
    assert losses([], [a_crd({"a": TEXT})]) == []


def test_fields_that_go_are_named_also_inside_lists_and_maps() -> None:
    deep = {
        "list": {"items": {"properties": {"x": TEXT}}},
        "map": {"additionalProperties": {"properties": {"y": TEXT}}},
    }
    flat: dict[str, Any] = {"list": {"items": {"properties": {}}}, "map": {"additionalProperties": {"properties": {}}}}
    (loss,) = losses([a_crd({"a": TEXT, **deep})], [a_crd(flat)])
    assert loss.fields == ("v1: spec.a", "v1: spec.list[].x", "v1: spec.map[].y")
    assert loss.stored == ()


def test_a_version_in_which_objects_are_stored_has_to_stay() -> None:
    (loss,) = losses([a_crd({}, versions=("v1", "v2"), stored=("v1", "v2"))], [a_crd({})])
    assert loss.stored == ("v2",)


def test_what_keeps_unknown_fields_loses_none() -> None:
    open_ended = {"a": {"x-kubernetes-preserve-unknown-fields": True}}
    assert losses([a_crd({"a": {"properties": {"x": TEXT}}})], [a_crd(open_ended)]) == []
