"""What we know of the objects of one kind: filled by a Reflector, corrected at once by our own writes."""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic

from vdi.kube.meta import T
from vdi.kube.ownership import MarkReader

Listener = Callable[["T | None", "T | None"], None]
"""Called with (old, new): (None, new) is an addition, (old, None) a removal."""


class Store(Generic[T]):
    """Objects of one kind by (namespace, name). `marks` is needed where an Applier works on the store."""

    def __init__(self, marks: MarkReader | None = None) -> None:
        self.marks = marks

    def get(self, namespace: str, name: str) -> T | None:
        """The object, or None. `namespace` is empty for cluster-scoped kinds."""
        raise NotImplementedError

    def values(self) -> list[T]:
        """All objects."""
        raise NotImplementedError

    def by_owner(self, uid: str) -> list[T]:
        """The objects that name this uid among their ownerReferences."""
        raise NotImplementedError

    def add_index(self, name: str, keys: Callable[[T], Iterable[Hashable]]) -> None:
        """Keep an index: `keys` gives the entries under which an object is found."""
        raise NotImplementedError

    def by_index(self, name: str, key: Hashable) -> list[T]:
        """The objects that the index holds under this key."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def listen(self, listener: "Listener[T]") -> None:
        """Call back on every effective change, whether it came by the watch or by our own write."""
        raise NotImplementedError

    def remember(self, obj: T) -> None:
        """Take in the answer to our own write at once; older events that the watch still brings do not undo it."""
        raise NotImplementedError

    def forget(self, namespace: str, name: str, uid: str) -> None:
        """Our delete was answered and this incarnation is gone: drop it now, whatever the watch still says."""
        raise NotImplementedError
