"""Equal strings become one, and nothing else about an object changes."""

from typing import Annotated

import msgspec

from vdi.kube.interning import REMEMBERED, Interner, absorb


class Note(msgspec.Struct, gc=False):
    reason: str = ""
    text: str | None = None


class Meta(msgspec.Struct, frozen=True, gc=False):
    name: str
    resource_version: str = ""
    labels: dict[str, str] = {}


class Parent(msgspec.Struct, frozen=True, gc=False):
    uid: str


class Owner(msgspec.Struct, frozen=True, gc=False):
    uid: str
    parent: Parent | None = None


class Thing(msgspec.Struct):
    metadata: Meta
    phase: Annotated[str, msgspec.Meta(max_length=99)] = ""
    size: int = 0
    note: Note | None = None
    notes: tuple[Note, ...] = ()
    either: int | str = 0
    sizes: dict[str, int] = {}
    finalizers: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()


def a_thing(name: str, version: str = "77", phase: str = "Running") -> Thing:
    body = {
        "metadata": {"name": name, "resource_version": version, "labels": {"app": "desktop-x"}},
        "phase": phase,
        "size": 3,
        "note": {"reason": "Running", "text": "desktop-x"},
        "notes": [{"reason": "Running"}, {"reason": "x" * 100, "text": None}],
        "either": "Running",
        "sizes": {"a": 1},
        "finalizers": ["desktop-x"],
        "owners": [{"uid": "desktop-x", "parent": {"uid": "desktop-y"}}],
    }
    return msgspec.json.decode(msgspec.json.encode(body), type=Thing)


def test_equal_strings_are_one_wherever_they_stand() -> None:
    interner, one, other = Interner(), a_thing("one"), a_thing("other")
    interner.intern_fields(one)
    interner.intern_fields(other)
    assert one.note is not None
    assert other.note is not None
    assert (
        one.phase is one.note.reason is one.notes[0].reason is other.phase is other.notes[0].reason
    )
    assert one.metadata.labels["app"] is one.note.text is other.note.text
    assert one.metadata.resource_version is not other.metadata.resource_version


def test_equal_immutable_values_are_one() -> None:
    interner, one, other = Interner(), a_thing("one"), a_thing("other")
    interner.intern_fields(one)
    interner.intern_fields(other)
    assert one.finalizers is other.finalizers
    assert one.owners is other.owners
    assert one.owners[0].uid is one.metadata.labels["app"]
    assert one.note is not other.note, "it can be changed"


def test_maps_share_their_keys_and_empty_ones_are_one() -> None:
    interner, key = Interner(), "a key that is longer than the decoder's own memory of keys"
    things = [
        msgspec.json.decode(f'{{"metadata": {{"name": "{name}", "labels": {labels}}}}}', type=Thing)
        for name, labels in (
            ("one", f'{{"{key}": "x"}}'),
            ("other", f'{{"{key}": "y"}}'),
            ("bare", "{}"),
            ("none", "{}"),
        )
    ]
    for thing in things:
        interner.intern_fields(thing)
    one, other, bare, none = (thing.metadata.labels for thing in things)
    assert next(iter(one)) is next(iter(other))
    assert (one[key], other[key]) == ("x", "y")
    assert bare == {}
    assert bare is none


def test_nothing_else_changes() -> None:
    shared = a_thing("one")
    Interner().intern_fields(shared)
    assert shared == a_thing("one")
    empty = Thing(Meta(""))
    Interner().intern_fields(empty)
    assert empty == Thing(Meta(""))


def test_interner_is_bounded() -> None:
    interner = Interner()
    for number in range(REMEMBERED + 100):
        interner.intern_fields(Thing(Meta(f"thing-{number}")))
    assert len(interner._known) <= REMEMBERED + 10


def test_a_state_that_differs_in_its_version_alone_is_absorbed() -> None:
    known = a_thing("one")
    assert absorb(known, a_thing("one", "78"))
    assert known == a_thing("one", "78")
    assert not absorb(known, a_thing("one", "79", "Failed"))
    assert known == a_thing("one", "78")
