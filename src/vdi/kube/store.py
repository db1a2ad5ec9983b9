"""Stores: the known objects of one kind, filled by a `Reflector` and corrected at once by our own
writes.

Two sources meet here: the watch, complete but late, and the answers to our own writes, which are
early. Of two states of one incarnation (uid) the one with the higher resourceVersion is newer,
compared as a number. An answer that is older than the watch is ignored, since the watch may also
have shown the object's end.

An answer may contain what others wrote just before our write. The watch shows it: it then brings a
version that is older than the known one and is none of our answers, and the listeners are called
for that.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic

from vdi.kube.interning import Interner, absorb
from vdi.kube.managed_fields import FieldOwnership, FieldOwnershipReader
from vdi.kube.meta import T, key_of, version_of

# Called with (old, new): (None, new) is an addition, (old, None) a removal.
Listener = Callable[[T | None, T | None], None]

log = logging.getLogger(__name__)
ObjectKey = tuple[str, str]
# Objects that changed last and do not share strings yet: in a burst most of them change again in a
# moment.
NEWEST = 256


class _Index(Generic[T]):
    """Entry -> the key of its object; only where there are several, a map of their keys.

    Nearly always there is one, and a map for each would be a fifth of the operator's memory. Keys,
    not objects: most changes of an object leave its entries as they are, and then there is nothing
    to do.
    """

    def __init__(
        self, keys: Callable[[T], Collection[Hashable]], interner: Interner | None
    ) -> None:
        self._keys = keys
        self._interner = interner
        self._groups: dict[Hashable, ObjectKey | dict[ObjectKey, None]] = {}

    def find(self, entry: Hashable) -> Iterable[ObjectKey]:
        """The keys of all objects under this entry."""
        group = self._groups.get(entry, ())
        if group and isinstance(group, tuple):
            return (group,)
        return group

    def move(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        """Put an object under the entries that it has now, and under no others."""
        before = () if old is None else self._keys(old)
        after = () if new is None else self._keys(new)
        if before == after:
            return
        for entry in set(after).difference(before):
            self._put(entry, key)
        for entry in set(before).difference(after):
            self._drop(entry, key)

    def _put(self, entry: Hashable, key: ObjectKey) -> None:
        group = self._groups.get(entry)
        if isinstance(group, dict):
            group[key] = None
        elif group is not None:
            self._groups[entry] = {group: None, key: None}
        else:
            self._groups[self._interner.intern(entry) if self._interner else entry] = key

    def _drop(self, entry: Hashable, key: ObjectKey) -> None:
        group = self._groups[entry]
        if not isinstance(group, dict):
            del self._groups[entry]
            return
        del group[key]
        if len(group) == 1:
            (self._groups[entry],) = group


def _owner_uids(obj: T) -> Collection[Hashable]:
    return [owner.uid for owner in obj.metadata.owner_references]


class Store(Generic[T]):
    """Objects of one kind by (namespace, name). `ownership` is needed where an Applier repairs the
    store's objects.

    With an `interner` the objects (msgspec structs) share their strings with all that it has seen,
    and a new state that differs only in its version is no change: no listener is called.

    Objects are shared, so readers must not change them: the indices would not notice. The maps are
    touched only from the event loop's thread, between two awaits: hence no lock.
    """

    def __init__(
        self, ownership: FieldOwnershipReader | None = None, interner: Interner | None = None
    ) -> None:
        self.ownership = ownership
        self._interner = interner
        self._objects: dict[ObjectKey, T] = {}
        self._unshared: dict[ObjectKey, None] = {}  # what changed last, the latest at the end
        self._marks: dict[str, FieldOwnership] = {}  # by uid; only where `ownership` is set
        self._gone: dict[
            str, str
        ] = {}  # uid -> namespace of what `forget` dropped, until the watch says DELETED
        # Versions of the answers to our own writes whose events the watch has not brought yet.
        self._answered: dict[ObjectKey, set[int]] = {}
        self._owners: _Index[T] = _Index(_owner_uids, interner)
        self._indices: dict[str, _Index[T]] = {}
        self._listeners: list[Listener[T]] = []
        self._seen: dict[
            str, int
        ] = {}  # by scope, the version up to which its watch has sent us everything

    def get(self, namespace: str, name: str) -> T | None:
        """The object, or None. `namespace` is empty for cluster-scoped kinds."""
        return self._objects.get((namespace, name))

    def values(self) -> list[T]:
        """All objects, as a copy that may be iterated while the cache changes."""
        return list(self._objects.values())

    def by_owner(self, uid: str) -> list[T]:
        """The objects that name this uid among their ownerReferences."""
        return [self._objects[key] for key in self._owners.find(uid)]

    def add_index(self, name: str, keys: Callable[[T], Collection[Hashable]]) -> None:
        """Keep an index: `keys` gives the entries under which an object is found, from the object
        alone.
        """
        index = _Index(keys, self._interner)
        for key, obj in self._objects.items():
            index.move(key, None, obj)
        self._indices[name] = index

    def by_index(self, name: str, key: Hashable) -> list[T]:
        """The objects that the index holds under this key."""
        return [self._objects[object_key] for object_key in self._indices[name].find(key)]

    def mark_of(self, obj: T) -> FieldOwnership | None:
        """Our ownership of this incarnation, as of its last state."""
        return self._marks.get(obj.metadata.uid)

    def __len__(self) -> int:
        return len(self._objects)

    def listen(self, listener: Listener[T]) -> None:
        """Call back on every effective change, whether it came by the watch or by our own write."""
        self._listeners.append(listener)

    def remember(self, obj: T, mark: FieldOwnership | None = None) -> None:
        """Put the answer to our own write at once; older events that the watch still brings do not
        undo it.

        Only for objects that a Reflector of the store would bring too (its namespace, its
        selectors).
        """
        version = version_of(obj)
        if version > self._seen.get(self._scope_of(obj), 0):
            self._answered.setdefault(key_of(obj), set()).add(version)
            self._put(obj, mark)

    def forget(self, namespace: str, name: str, uid: str) -> None:
        """Our delete was answered and this incarnation is gone: drop it now, whatever the watch
        still brings.
        """
        present = self._objects.get((namespace, name))
        if present is not None and present.metadata.uid == uid:
            self._gone[uid] = namespace
            self._change((namespace, name), present, None)

    def observe(self, obj: T, mark: FieldOwnership | None = None) -> None:
        """Put an object that the watch reports as ADDED or MODIFIED."""
        meta, version = obj.metadata, version_of(obj)
        self.observe_version(version, self._scope_of(obj))
        if self.awaits(meta.namespace, meta.name, meta.uid, version):
            self._answered.pop(key_of(obj), None)  # their events came before this one
            self._put(obj, mark)
        else:
            self.observe_known(meta.namespace, meta.name, meta.uid, version)

    def observe_known(self, namespace: str, name: str, uid: str, version: int) -> None:
        """Note a state that the watch reports although a later one is known, from an answer to our
        own write.

        Calls the listeners where that answer included somebody else's write: this is its event.
        """
        key = (namespace, name)
        answered = self._answered.get(key)
        if answered is None:
            return
        if version not in answered:
            self._report_foreign_write(key, uid)
            return
        answered.discard(version)
        if not answered:
            del self._answered[key]

    def observe_deleted(self, obj: T) -> None:
        """Drop an object that the watch reports as DELETED, with the version of the deletion."""
        self.observe_version(version_of(obj), self._scope_of(obj))
        self._gone.pop(obj.metadata.uid, None)
        key = key_of(obj)
        present = self._objects.get(key)
        # An incarnation ends once; of another one this tells only that it was there before, or
        # after.
        if (
            present is None
            or present.metadata.uid == obj.metadata.uid
            or version_of(present) < version_of(obj)
        ):
            self._answered.pop(key, None)
            if present is not None:
                self._change(key, present, None)

    def observe_version(self, version: int, scope: str = "") -> None:
        """The watch of that scope has sent everything up to this version (a BOOKMARK)."""
        self._seen[scope] = max(self._seen.get(scope, 0), version)

    def relist(self, version: int, scope: str = "") -> "Relist[T]":
        """Begin to put a complete list of that version: of one namespace, or of all (the empty
        scope).

        Several Reflectors may fill one store, each with its own namespace, and none removes objects
        of another.
        """
        return Relist(self, version, scope)

    def _scope_of(self, obj: T) -> str:
        """The scope of the Reflector that brings this object."""
        namespace = obj.metadata.namespace
        return namespace if namespace in self._seen else ""

    def is_news(self, obj: T) -> bool:
        """Whether this state is newer than the known one."""
        metadata = obj.metadata
        return self.awaits(metadata.namespace, metadata.name, metadata.uid, version_of(obj))

    def awaits(self, namespace: str, name: str, uid: str, version: int) -> bool:
        """Whether this state of this incarnation would be news."""
        present = self._objects.get((namespace, name))
        return uid not in self._gone and (present is None or version > version_of(present))

    def _put(self, obj: T, mark: FieldOwnership | None, *, listed: bool = False) -> None:
        if not self.is_news(obj):
            return
        key = key_of(obj)
        uid = obj.metadata.uid
        present = self._objects.get(key)
        if self._interner is not None:
            if present is not None and mark == self._marks.get(uid) and absorb(present, obj):
                return  # a node's heartbeat: all that we keep of it is as it was
            intern = self._interner.intern
            key = intern((intern(key[0]), intern(key[1])))
            if listed:  # thousands come at once and stay
                self._interner.intern_fields(obj)
            else:
                self._share_later(key, self._interner)
        if present is not None and present.metadata.uid != uid:
            self._change(key, present, None)
            present = None
        if mark is not None:
            self._marks[uid] = mark
        self._change(key, present, obj)

    def _share_later(self, key: ObjectKey, interner: Interner) -> None:
        self._unshared.pop(key, None)
        self._unshared[key] = None
        if len(self._unshared) > NEWEST:
            oldest = next(iter(self._unshared))
            del self._unshared[oldest]
            if (settled := self._objects.get(oldest)) is not None:
                interner.intern_fields(settled)

    def _change(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        if new is None:
            del self._objects[key]
            if old is not None:
                self._marks.pop(old.metadata.uid, None)
        else:
            self._objects[key] = new
        self._owners.move(key, old, new)
        for index in self._indices.values():
            index.move(key, old, new)
        self._call_listeners(key, old, new)

    def _report_foreign_write(self, key: ObjectKey, uid: str) -> None:
        present = self._objects.get(key)
        if present is not None and present.metadata.uid == uid:
            self._call_listeners(key, present, present)

    def _call_listeners(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        for listener in self._listeners:
            try:
                listener(old, new)
            # One listener's bug must neither stop the watch nor hide the change from the others.
            except Exception:
                log.exception("a listener failed on the change of %s/%s", *key)


class Relist(Generic[T]):
    """A complete list on its way into the store, page by page; objects that it lacks have
    vanished.
    """

    def __init__(self, store: Store[T], version: int, scope: str) -> None:
        self._store = store
        self._version = version
        self._scope = scope
        self._listed: set[ObjectKey] = set()
        self._uids: set[str] = set()
        seen = store._seen.setdefault(scope, 0)
        if version < seen:
            # Lists are consistent reads, so the server's own history went back (a restored backup,
            # a reset cluster). Objects from the lost future would stay for ever: start over.
            self._rewind()

    def put(self, obj: T, mark: FieldOwnership | None = None) -> None:
        store, key, uid = self._store, key_of(obj), obj.metadata.uid
        self._listed.add(key)
        self._uids.add(uid)
        is_news = store.is_news(obj)
        store._put(obj, mark, listed=True)
        # A list has only the last state, so it cannot tell whether others wrote before our last
        # write.
        if store._answered.pop(key, None) and not is_news:
            store._report_foreign_write(key, uid)

    def finish(self) -> None:
        """The list was complete: remove what it did not have, unless our own write made it after
        the list was taken.
        """
        store = self._store
        vanished = [
            (key, obj)
            for key, obj in store._objects.items()
            if key not in self._listed
            and self._is_mine(key[0])
            and version_of(obj) <= self._version
        ]
        for key, obj in vanished:
            store._change(key, obj, None)
        store._gone = {
            uid: namespace
            for uid, namespace in store._gone.items()
            if uid in self._uids or not self._is_mine(namespace)
        }
        store._answered = {
            key: versions
            for key, versions in store._answered.items()
            if key in store._objects or not self._is_mine(key[0])
        }
        store.observe_version(self._version, self._scope)

    def _is_mine(self, namespace: str) -> bool:
        return not self._scope or namespace == self._scope

    def _rewind(self) -> None:
        store = self._store
        for key, obj in list(store._objects.items()):
            if self._is_mine(key[0]):
                store._change(key, obj, None)
        store._gone = {
            uid: namespace for uid, namespace in store._gone.items() if not self._is_mine(namespace)
        }
        store._answered = {
            key: versions for key, versions in store._answered.items() if not self._is_mine(key[0])
        }
        store._seen[self._scope] = 0
