"""What changes between two sets of objects, field by field."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vdi.release.diff import ObjectChange, changes_between, losses, read_crds
from vdi.snapshot.objects.config import CustomResourceDefinition


def an_object(kind: str = "Deployment", name: str = "x", **rest: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, **rest.pop("metadata", {})},
        **rest,
    }


def only(before: dict[str, Any], after: dict[str, Any]) -> ObjectChange:
    (found,) = changes_between([before], [after], "kasm")
    return found


def lines(change: ObjectChange) -> list[str]:
    return [line for field in change.fields for line in field.lines]


def test_what_comes_goes_and_stays() -> None:
    keep = {"metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}}
    before = [
        an_object(name="goes"),
        an_object("PersistentVolumeClaim", "kept", **keep),
        an_object(name="same"),
    ]
    after = [an_object(name="comes"), an_object(name="same"), an_object("VDIPool", "warm")]
    found = changes_between(before, after, "kasm")
    assert [(one.action, one.title) for one in found] == [
        ("+", "Deployment kasm/comes"),
        ("-", "Deployment kasm/goes"),
        ("=", "PersistentVolumeClaim kasm/kept"),
        ("+", "VDIPool warm"),
    ]


def test_fields_are_named_as_people_name_them() -> None:
    def deployment(replicas: int, level: str, *more: dict[str, str]) -> dict[str, Any]:
        env = [{"name": "LEVEL", "value": level}, *more]
        containers = [{"name": "operator", "env": env}]
        return an_object(
            spec={"replicas": replicas, "template": {"spec": {"containers": containers}}}
        )

    change = only(deployment(2, "info"), deployment(3, "debug", {"name": "NEW", "value": "1"}))
    env = "spec.template.spec.containers[operator].env"
    assert lines(change) == [
        "~ spec.replicas: 2 -> 3",
        f"~ {env}[LEVEL].value: info -> debug",
        f'+ {env}[NEW]: {{"name": "NEW", "value": "1"}}',
    ]


def test_lists_are_compared_by_name_or_by_position() -> None:
    assert lines(only(an_object(args=["a", "b"]), an_object(args=["a", "c", "d"]))) == [
        "~ args[1]: b -> c",
        "+ args[2]: d",
    ]
    rules = [{"verbs": [one]} for one in "abcd"]
    changed = [rules[0], {"verbs": ["new"]}, *rules[1:]]
    assert lines(only(an_object(rules=rules), an_object(rules=changed))) == [
        '+ rules[1]: {"verbs": ["new"]}'
    ]
    both = [{"name": "a", "x": 1}, {"name": "b", "x": 2}]
    assert changes_between([an_object(items=both)], [an_object(items=both[::-1])], "") == []


def test_a_text_is_shown_line_by_line() -> None:
    change = only(
        an_object("ConfigMap", data={"f": "a: 1\nb: 2\n"}),
        an_object("ConfigMap", data={"f": "a: 1\nb: 3\n"}),
    )
    assert lines(change) == ["~ data.f:", "     a: 1", "    -b: 2", "    +b: 3"]


def test_what_is_in_secrets_is_shown_nowhere() -> None:
    old = an_object("Secret", stringData={"conf": "user=hush1\nx"}, data={"password": "aHVzaDI="})
    new = an_object(
        "Secret",
        stringData={"conf": "user=hush3\nx", "new": "hush4"},
        data={"deep": {"er": "hush5"}},
    )
    change = only(old, new)
    assert [field.path for field in change.fields] == [
        "data.deep",
        "data.password",
        "stringData.conf",
        "stringData.new",
    ]
    shown = repr(change) + "".join(lines(change))
    assert "hush" not in shown and "aHVz" not in shown
    assert "~ stringData.conf: (not shown) -> (not shown)" in lines(change)


def test_labels_that_say_the_chart_s_version_are_left_out() -> None:
    labels = [
        {"helm.sh/chart": f"vdi-{one}", "app.kubernetes.io/version": one} for one in ("1", "2")
    ]
    old, new = (
        an_object(metadata={"labels": label}, spec={"template": {"metadata": {"labels": label}}})
        for label in labels
    )
    assert changes_between([old], [new], "") == []


def test_hooks_are_no_part_of_the_release() -> None:
    hook = an_object("Pod", metadata={"annotations": {"helm.sh/hook": "test"}})
    assert changes_between([], [hook], "") == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_there_are_fields_if_and_only_if_something_differs(old: Any, new: Any) -> None:
    found = changes_between([an_object(spec=old)], [an_object(spec=new)], "")
    assert bool(found) == (repr(old) != repr(new)) or (old == new and not found)
    assert all(field.lines for one in found for field in one.fields)


# CRDs: what a change of them would lose


def a_crd(
    fields: dict[str, Any],
    *,
    versions: tuple[str, ...] = ("v1",),
    stored: tuple[str, ...] = ("v1",),
) -> CustomResourceDefinition:
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"properties": fields}}}}
    (crd,) = read_crds(
        [
            {
                "kind": "CustomResourceDefinition",
                "metadata": {"name": "things.example.com"},
                "spec": {"versions": [{"name": version, "schema": schema} for version in versions]},
                "status": {"storedVersions": list(stored)},
            }
        ]
    )
    return crd


TEXT = {"type": "string"}


def test_more_fields_lose_nothing() -> None:
    assert losses([a_crd({"a": TEXT})], [a_crd({"a": TEXT, "b": TEXT})]) == []
    assert losses([], [a_crd({"a": TEXT})]) == []


def test_fields_that_go_are_named_also_inside_lists_and_maps() -> None:
    deep = {
        "list": {"items": {"properties": {"x": TEXT}}},
        "map": {"additionalProperties": {"properties": {"y": TEXT}}},
    }
    flat: dict[str, Any] = {
        "list": {"items": {"properties": {}}},
        "map": {"additionalProperties": {"properties": {}}},
    }
    (loss,) = losses([a_crd({"a": TEXT, **deep})], [a_crd(flat)])
    assert loss.fields == ("v1: spec.a", "v1: spec.list[].x", "v1: spec.map[].y")
    assert loss.stored == ()


def test_a_version_in_which_objects_are_stored_has_to_stay() -> None:
    (loss,) = losses([a_crd({}, versions=("v1", "v2"), stored=("v1", "v2"))], [a_crd({})])
    assert loss.stored == ("v2",)


def test_what_keeps_unknown_fields_loses_none() -> None:
    open_ended = {"a": {"x-kubernetes-preserve-unknown-fields": True}}
    assert losses([a_crd({"a": {"properties": {"x": TEXT}}})], [a_crd(open_ended)]) == []
