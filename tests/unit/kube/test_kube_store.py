"""The store: watch events and answers to own writes, merged into one state."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unit.kube.kube_things import Journal, Thing, a_thing
from vdi.kube.interning import Interner
from vdi.kube.store import NEWEST, Store


def a_store() -> tuple[Store[Thing], Journal]:
    store: Store[Thing] = Store()
    journal = Journal()
    store.listen(journal)
    return store, journal


def test_duplicate_and_older_events_change_nothing() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=9, size=9))
    store.observe(a_thing(version=10, size=10))
    store.observe(a_thing(version=10, size=99))
    store.observe(a_thing(version=4, size=4))
    assert (found := store.get("ns", "a")) is not None
    assert found.size == 10, "versions are compared as numbers"
    assert journal.lines == ["+a", "~a"]


def test_a_recreated_object_is_a_removal_and_an_addition() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=5, uid="one"))
    store.observe(a_thing(version=8, uid="two"))
    assert journal.lines == ["+a", "-a", "+a"]
    store.observe(a_thing(version=6, uid="one"))
    store.observe_deleted(a_thing(version=7, uid="one"))
    assert (found := store.get("ns", "a")) is not None
    assert found.metadata.uid == "two"
    assert len(journal.lines) == 3


def test_own_write_is_known_at_once_and_not_undone_by_events() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=5))
    store.remember(a_thing(version=9, size=9))
    store.observe(a_thing(version=7, size=7))
    store.observe(a_thing(version=9, size=9))
    assert (found := store.get("ns", "a")) is not None
    assert found.size == 9
    assert journal.lines == ["+a", "~a", "~a"], "version 7 is somebody else's write"


@pytest.mark.parametrize("others", [(), (6,), (8,), (6, 8), (10,), (6, 8, 10)])
@pytest.mark.parametrize("answers_first", [True, False], ids=["answers first", "watch first"])
@pytest.mark.parametrize("second", [True, False], ids=["event", "list"])
def test_others_writes_between_ours_are_reported(
    others: tuple[int, ...], answers_first: bool, second: bool
) -> None:
    store, journal = a_store()
    store.observe(a_thing(version=5))
    ours = (7, 9)
    if answers_first:
        for version in ours:
            store.remember(a_thing(version=version))
    journal.lines.clear()
    reports: dict[int, int] = {}
    for version in sorted((*ours, *others)):
        if not answers_first and version in ours:
            store.remember(a_thing(version=version))
            journal.lines.clear()
        store.observe(a_thing(version=version))
        reports[version] = len(journal.lines)
        journal.lines.clear()
    assert reports == {version: int(version in others) for version in reports}
    if second:
        store.observe(a_thing(version=11))
    else:
        relist = store.relist(11)
        relist.put(a_thing(version=11))
        relist.finish()
    assert journal.lines == ["~a"]
    assert not store._answered


def test_list_after_our_write_is_reported_since_it_hides_others() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=5))
    store.remember(a_thing(version=9))
    journal.lines.clear()
    relist = store.relist(9)
    relist.put(a_thing(version=9))
    relist.finish()
    assert journal.lines == ["~a"]
    store.observe(a_thing(version=9))
    assert journal.lines == ["~a"]


def test_others_write_to_a_recreated_object_is_reported() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=3, uid="one"))
    store.remember(a_thing(version=7, uid="two"))
    journal.lines.clear()
    store.observe_deleted(a_thing(version=5, uid="one"))
    store.observe(a_thing(version=6, uid="two"))
    assert journal.lines == ["~a"]


def test_own_delete_is_known_at_once_and_not_undone_by_events() -> None:
    store, journal = a_store()
    store.observe(a_thing(version=5))
    store.forget("ns", "a", "uid-a")
    store.observe(a_thing(version=6))
    assert store.values() == []
    store.observe_deleted(a_thing(version=7))
    store.observe(a_thing(version=8, uid="another"))
    assert journal.lines == ["+a", "-a", "+a"]


@pytest.mark.parametrize("newer", ["bookmark", "list", "deletion"])
def test_late_answer_does_not_revive_an_object(newer: str) -> None:
    store, _ = a_store()
    if newer == "bookmark":
        store.observe_version(20)
    elif newer == "list":
        store.relist(20).finish()
    else:
        store.observe(a_thing(version=5))
        store.observe_deleted(a_thing(version=20))
    store.remember(a_thing(version=19))
    assert store.values() == []


def test_forgetting_another_incarnation_changes_nothing() -> None:
    store, _ = a_store()
    store.observe(a_thing(version=5, uid="new"))
    store.forget("ns", "a", "old")
    assert len(store) == 1


def test_list_removes_vanished_objects_but_no_later_writes() -> None:
    store, journal = a_store()
    for name in ("kept", "vanished"):
        store.observe(a_thing(name, version=5))
    store.remember(a_thing("young", version=30))
    relist = store.relist(20)
    relist.put(a_thing("kept", version=5))
    relist.finish()
    assert sorted(thing.metadata.name for thing in store.values()) == ["kept", "young"]
    assert journal.lines[-1] == "-vanished"


def test_a_list_from_before_our_delete_does_not_bring_it_back() -> None:
    store, _ = a_store()
    store.observe(a_thing(version=5))
    store.forget("ns", "a", "uid-a")
    relist = store.relist(6)
    relist.put(a_thing(version=5))
    relist.finish()
    store.observe(a_thing(version=7))
    assert store.values() == []


def test_two_namespaces_in_one_store_do_not_disturb_each_other() -> None:
    store, journal = a_store()
    for namespace in ("one", "two"):
        relist = store.relist(10, namespace)
        relist.put(a_thing(namespace, version=5, namespace=namespace))
        relist.finish()
    assert journal.lines == ["+one", "+two"], "the list of one says nothing of the other"
    store.observe_version(50, "one")
    store.remember(a_thing("written", version=40, namespace="two"))
    assert store.get("two", "written") is not None, (
        "the watch of its own namespace has not come so far"
    )
    store.remember(a_thing("late", version=40, namespace="one"))
    assert store.get("one", "late") is None
    store.forget("two", "two", "uid-two")
    store.relist(60, "one").finish()
    store.observe(a_thing("two", version=41, namespace="two"))
    assert journal.lines[-1] == "-one", "what we deleted in the other namespace stays gone"
    store.relist(3, "one").finish()
    assert store.get("two", "written") is not None, (
        "a history that went back is that of one namespace"
    )


def test_list_with_an_older_history_replaces_the_cache() -> None:
    store, _ = a_store()
    store.observe(a_thing("lost", version=500))
    store.observe(a_thing("kept", version=400, size=4))
    relist = store.relist(50)
    relist.put(a_thing("kept", version=40, size=1))
    relist.finish()
    assert [(thing.metadata.name, thing.size) for thing in store.values()] == [("kept", 1)]


def test_indices_follow_every_change() -> None:
    store, _ = a_store()
    store.observe(a_thing("early", version=1, size=1))
    # An entry named twice counts once.
    store.add_index("size", lambda thing: (thing.size, thing.size))
    store.observe(a_thing("late", version=2, size=1, owners=("owner", "other")))
    assert len(store.by_index("size", 1)) == 2
    store.observe(a_thing("early", version=3, size=2))
    assert [thing.metadata.name for thing in store.by_index("size", 1)] == ["late"]
    assert [thing.metadata.name for thing in store.by_owner("owner")] == ["late"]
    store.observe_deleted(a_thing("late", version=4))
    assert store.by_owner("owner") == store.by_owner("other") == store.by_index("size", 1) == []


def test_one_listeners_bug_hides_nothing_from_the_next(caplog: pytest.LogCaptureFixture) -> None:
    store: Store[Thing] = Store()
    journal = Journal()
    store.listen(lambda old, new: 1 / 0)  # type: ignore[arg-type]
    store.listen(journal)
    store.observe(a_thing())
    assert journal.lines == ["+a"]
    assert "ZeroDivisionError" in caplog.text


@dataclass
class Server:
    """The objects as they are now, and the events that the watch has not sent yet."""

    version: int = 0
    incarnations: int = 0
    objects: dict[str, Thing] = field(default_factory=dict)
    untold: list[tuple[bool, Thing]] = field(default_factory=list)  # (deleted, state)

    def write(self, name: str, owner: str) -> Thing:
        self.version += 1
        old = self.objects.get(name)
        if old is None:
            self.incarnations += 1
        uid = old.metadata.uid if old else f"uid-{self.incarnations}"
        thing = self.objects[name] = a_thing(name, self.version, uid, self.version, (owner,))
        self.untold.append((False, thing))
        return thing

    def delete(self, name: str) -> Thing:
        self.version += 1
        last = self.objects.pop(name)
        self.untold.append((True, a_thing(name, self.version, last.metadata.uid)))
        return last


NAMES = st.sampled_from(["a", "b", "c"])
OWNERS = st.sampled_from(["x", "y"])


class StoreModel(RuleBasedStateMachine):
    """The store equals the server in the end, with answers early or late, events twice and lists in
    between.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.store: Store[Thing] = Store()
        self.store.add_index("size", lambda thing: (thing.size,))
        self.seen: dict[str, Thing] = {}
        self.store.listen(self._follow)
        self.answers: list[Thing] = []
        self.reported: list[tuple[bool, Thing]] = []
        # The last write of others to each object that no listener has been called for outside our
        # answers.
        self.unreported: dict[str, int] = {}
        self.called: set[str] = set()

    def _follow(self, old: Thing | None, new: Thing | None) -> None:
        name = (new or old).metadata.name  # type: ignore[union-attr]
        assert self.seen.get(name) is old
        self.called.add(name)
        if new is None:
            del self.seen[name]
        else:
            self.seen[name] = new

    @rule(name=NAMES, owner=OWNERS)
    def others_write(self, name: str, owner: str) -> None:
        self.unreported[name] = int(self.server.write(name, owner).metadata.resource_version)

    @rule(name=NAMES, owner=OWNERS)
    def we_write(self, name: str, owner: str) -> None:
        self.answers.append(self.server.write(name, owner))

    @rule(name=NAMES)
    def others_delete(self, name: str) -> None:
        if name in self.server.objects:
            self.server.delete(name)
            self.unreported.pop(name, None)

    @rule(name=NAMES)
    def we_delete(self, name: str) -> None:
        if name in self.server.objects:
            last = self.server.delete(name)
            self.unreported.pop(name, None)
            self.store.forget("ns", name, last.metadata.uid)

    @rule(late=st.booleans())
    def an_answer_comes(self, late: bool) -> None:
        if self.answers:
            self.store.remember(self.answers.pop(0 if late else -1))

    @rule()
    def an_event_comes(self) -> None:
        if self.server.untold:
            event = self.server.untold.pop(0)
            self.reported.append(event)
            self._tell(event)

    @precondition(lambda self: self.reported)
    @rule(back=st.integers(1, 4))
    def old_events_come_again(self, back: int) -> None:
        for event in self.reported[-back:]:
            self._tell(event)

    @rule()
    def a_list_comes(self) -> None:
        self.called.clear()
        relist = self.store.relist(self.server.version)
        for thing in self.server.objects.values():
            relist.put(thing)
        relist.finish()
        self._count_as_reported(self.server.version)
        self.reported += self.server.untold
        self.server.untold.clear()

    def _tell(self, event: tuple[bool, Thing]) -> None:
        deleted, thing = event
        self.called.clear()
        if deleted:
            self.store.observe_deleted(thing)
        else:
            self.store.observe(thing)
        self._count_as_reported(int(thing.metadata.resource_version))

    def _count_as_reported(self, version: int) -> None:
        for name in self.called:
            if self.unreported.get(name, 0) <= version:
                self.unreported.pop(name, None)

    @invariant()
    def listeners_have_the_same_picture(self) -> None:
        assert self.seen == {thing.metadata.name: thing for thing in self.store.values()}

    @invariant()
    def indices_agree_with_the_objects(self) -> None:
        for thing in self.store.values():
            assert thing in self.store.by_index("size", thing.size)
            assert thing in self.store.by_owner(thing.metadata.owner_references[0].uid)
        owned = self.store.by_owner("x") + self.store.by_owner("y")
        assert len(owned) == len(self.store)

    def teardown(self) -> None:
        for answer in self.answers:
            self.store.remember(answer)
        while self.server.untold:
            self.an_event_comes()
        assert {thing.metadata.name: thing for thing in self.store.values()} == self.server.objects
        assert not self.store._gone, (
            "what was forgotten is forgotten in full when the watch has told its end"
        )
        assert not self.unreported, (
            "others' writes are reported, also those that our answers included"
        )
        assert not self.store._answered


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(stateful_step_count=40)


def test_new_version_with_the_same_content_is_no_change() -> None:
    store: Store[Thing] = Store(interner=Interner())
    journal = Journal()
    store.listen(journal)
    for version, size in ((1, 1), (2, 1), (3, 2)):
        store.observe(a_thing(version=version, size=size))
        known = store.get("ns", "a")
        assert known is not None
        assert (known.metadata.resource_version, known.size) == (str(version), size)
    assert journal.lines == ["+a", "~a"]


def test_only_settled_objects_share_their_strings() -> None:
    interner = Interner()
    store: Store[Thing] = Store(interner=interner)
    for number in range(NEWEST + 1):
        store.observe(
            a_thing(f"thing-{number}", version=number + 1, owners=("".join(["ow", "ner"]),))
        )

    def owner(number: int) -> str:
        known = store.get("ns", f"thing-{number}")
        assert known is not None
        return known.metadata.owner_references[0].uid

    assert owner(0) is interner.intern("owner")
    assert owner(1) is not interner.intern("owner")
    store.observe(a_thing("thing-1", version=NEWEST + 2, size=1, owners=("".join(["ow", "ner"]),)))
    store.observe(a_thing("another", version=NEWEST + 3))
    assert owner(1) is not interner.intern("owner"), "it is among the newest again"
    assert owner(2) is interner.intern("owner")


def test_names_are_kept_once_by_all_stores_of_a_sharer() -> None:
    interner = Interner()
    one: Store[Thing] = Store(interner=interner)
    other: Store[Thing] = Store(interner=interner)
    for store in (one, other):
        store.observe(a_thing("".join(["thi", "ng"])))
    [mine], [theirs] = list(one._objects), list(other._objects)
    assert mine is theirs


def test_an_index_keeps_no_names_of_its_own() -> None:
    interner = Interner()
    store: Store[Thing] = Store(interner=interner)
    owner, key = interner.intern("owner"), interner.intern(("ns", "thing"))
    store.observe(a_thing("".join(["thi", "ng"]), version=1))
    store.observe(a_thing("".join(["thi", "ng"]), version=2, owners=("".join(["ow", "ner"]),)))
    [(entry, found)] = store._owners._groups.items()
    assert entry is owner
    assert found is key


def test_listed_objects_share_their_strings_at_once() -> None:
    interner = Interner()
    store: Store[Thing] = Store(interner=interner)
    relist = store.relist(1)
    listed = a_thing(owners=("".join(["ow", "ner"]),))
    owner = interner.intern("owner")
    relist.put(listed)
    assert listed.metadata.owner_references[0].uid is owner
    assert next(iter(store._objects))[1] is listed.metadata.name
