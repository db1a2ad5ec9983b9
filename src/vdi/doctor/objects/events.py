"""Events of an object as evidence. Pure."""

from collections.abc import Iterable

from vdi.session.observed import Event


def last_warnings(events: Iterable[Event]) -> list[str]:
    """The two newest that say something, whole; `Error: ImagePullBackOff` and its like repeat the state only."""
    telling = [event for event in events if event.note and not event.note.startswith("Error: ")]
    newest = sorted(telling, key=lambda event: event.seen)[-2:]
    return [f"{event.reason}: {' '.join(event.note.split())}" for event in newest]
