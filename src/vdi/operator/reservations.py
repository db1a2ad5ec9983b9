"""Who is about to take a home or a host, between the decision and the moment when the caches show it."""


def home_reservation(namespace: str, claim: str) -> str:
    """The name under which a home is reserved: a user may have one of the same name in each namespace."""
    return f"{namespace}/{claim}"


class Reservations:
    """Things that only one session can have, by name of the thing.

    Lives as long as the process. Lost at a restart without harm: by then the first lists show what was made.
    Touched only from the event loop's thread, between two awaits: hence no lock.
    """

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._things: dict[str, set[str]] = {}

    def holder(self, thing: str) -> str | None:
        """The uid of the session that has reserved it."""
        return self._holders.get(thing)

    def reserve(self, thing: str, uid: str) -> bool:
        """Reserve it; False when another session was faster."""
        if self._holders.setdefault(thing, uid) != uid:
            return False
        self._things.setdefault(uid, set()).add(thing)
        return True

    def release(self, uid: str) -> None:
        """Give back all that this session has reserved."""
        for thing in self._things.pop(uid, ()):
            del self._holders[thing]
