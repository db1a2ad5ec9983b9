"""A values file of one generation as one of a later, with a report. Pure.

Every value of the old file is accounted for in the report, once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.kasm.generations import ALL, Generation, Version
from vdi.kasm.value_paths import set_at, value_at
from vdi.kasm.values.habits import meant_by
from vdi.kasm.values.migrate_table import CONNECTION, STEPS, TOGETHER, Fate, Note, Step, longest, moved
from vdi.kasm.values.schema import known, tree_of, was_ever_known


@dataclass(frozen=True, slots=True)
class Migration:
    """The new values and what happened on the way. Of those that need a person only what has a new path is there."""

    values: dict[str, Any]
    notes: tuple[Note, ...]

    def of(self, fate: Fate) -> tuple[Note, ...]:
        """The notes of one fate."""
        return tuple(note for note in self.notes if note.fate is fate)


class CannotMigrateError(Exception):
    """Raised when there is no way from one generation to the other."""


def migrate(
    values: Mapping[str, Any], source: Generation, target: Generation, version: Version | None = None
) -> Migration:
    """Step by step from one generation to another; `version` is the target chart's. Raises CannotMigrateError."""
    start, end = ALL.index(source), ALL.index(target)
    if start > end:
        raise CannotMigrateError(
            f"values cannot be converted from generation {source.letter} ({source.chart}) back to {target.letter} "
            f"({target.chart}); allowed: {', '.join(each.letter for each in ALL[start:])}"
        )
    habits = list(_habits(source, values, target, version))
    old = _without(values, [path for path, _ in habits])
    done = Migration(old, tuple(Note(Fate.KEPT, path, path) for path, _ in leaves(source, old)))
    for step in STEPS[start:end]:
        done = _joined(done, _step(step, done.values))
        if source is not step.source:
            done = _across(done, step.across, values)
    if known(target, CONNECTION, version):
        done = _joined(done, _together(done.values, target, version or target.newest))
    return _with_habits(done, habits, target, version)


def _habits(
    source: Generation, values: Mapping[str, Any], target: Generation, version: Version | None, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Keys that the old chart never read, and the new one has a place for, or a reason why not."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if not was_ever_known(source, path) and meant_by(target, path, version) is not None:
            yield path, value
        elif isinstance(value, Mapping):
            yield from _habits(source, value, target, version, f"{path}.")


def _without(values: Mapping[str, Any], paths: list[str], prefix: str = "") -> dict[str, Any]:
    """A copy without these; a block that had nothing else goes with them."""
    left: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in paths:
            continue
        below = _without(value, paths, f"{path}.") if isinstance(value, Mapping) else value
        if below or not value:
            left[key] = below
    return left


def _with_habits(
    done: Migration, habits: list[tuple[str, Any]], target: Generation, version: Version | None
) -> Migration:
    """Each where the new chart reads what it stands for. What the old chart did read goes first."""
    notes = list(done.notes)
    written: dict[str, Any] = {}
    for path, value in habits:
        new, why = meant_by(target, path, version) or ("", "")
        added = next((note for note in notes if note.fate is Fate.ADDED and note.path == new), None)
        present = written.get(new, None if added else value_at(done.values, new)) if new else None
        if not new:
            notes.append(Note(Fate.DROPPED, path, why=why or "the new chart has no replacement for it"))
        elif present is not None and present != value:
            notes.append(Note(Fate.PERSON, path, why=f"{new} is already {present}: decide which value is right"))
        else:
            notes = [note for note in notes if note is not added]
            set_at(done.values, new, value)
            written[new] = value
            notes.append(Note(Fate.RENAMED, path, new))
    return Migration(done.values, tuple(notes))


def _across(done: Migration, paths: Mapping[str, str], values: Mapping[str, Any]) -> Migration:
    """What the generation between has no value for."""
    notes = []
    for note in done.notes:
        new = paths.get(note.path)
        value = value_at(values, note.path) if new else None
        if new and value is not None:
            set_at(done.values, new, value)
            notes.append(Note(Fate.RENAMED, note.path, new))
        else:
            notes.append(note)
    return Migration(done.values, tuple(notes))


def leaves(generation: Generation, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each value with its path; what the chart takes as a whole (resources, maps, lists) is one."""
    return _leaves(tree_of(generation), values, "")


def _leaves(tree: Any, values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        kind = tree.get(key) if isinstance(tree, Mapping) else None
        if isinstance(value, Mapping) and value and (kind is None or isinstance(kind, Mapping)):
            yield from _leaves(kind, value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _joined(before: Migration, after: Migration) -> Migration:
    """The report of two steps, in the words of the first file."""
    then = {note.path: note for note in after.notes if note.fate is not Fate.ADDED}
    notes: list[Note] = []
    for note in before.notes:
        follow = then.get(note.new_path) if note.new_path else None
        if follow is None:
            notes.append(note)
        elif follow.fate in (Fate.DROPPED, Fate.PERSON):
            notes.append(Note(follow.fate, note.path, follow.new_path, follow.why))
        elif note.fate in (Fate.ADDED, Fate.PERSON):
            notes.append(
                Note(note.fate, follow.new_path if note.fate is Fate.ADDED else note.path, follow.new_path, note.why)
            )
        else:
            fate = Fate.KEPT if note.path == follow.new_path else Fate.RENAMED
            notes.append(Note(fate, note.path, follow.new_path, follow.why or note.why))
    had = {note.new_path for note in before.notes}
    reported = {(note.fate, note.path) for note in notes}
    more = [
        note
        for note in after.notes
        if (note.fate is Fate.ADDED or note.path not in had) and (note.fate, note.path) not in reported
    ]
    return Migration(after.values, (*notes, *more))


def _step(step: Step, values: Mapping[str, Any]) -> Migration:
    new: dict[str, Any] = {}
    notes: list[Note] = []
    for path, value in leaves(step.source, values):
        notes.append(_move(step, path, value, new))
    notes += _added(step, values, new)
    return Migration(new, tuple(notes))


def _move(step: Step, path: str, value: Any, new: dict[str, Any]) -> Note:
    """Put one value where it belongs now, and say so."""
    special = step.special(path, value, new)
    if special is not None:
        return special
    renamed, person, dropped = (longest(table, path) for table in (step.renamed, step.person, step.dropped))
    deepest = max((each for each in (renamed, person, dropped) if each), key=len, default=None)
    if deepest is not None and deepest == dropped:
        return Note(Fate.DROPPED, path, why=step.dropped[deepest])
    if deepest is not None and deepest == person:
        return Note(Fate.PERSON, path, why=step.person[deepest])
    target = moved(step.renamed, path) or path
    if not known(step.target, target, step.target.newest):
        if not known(step.source, path):
            return Note(Fate.PERSON, path, why=f"chart {step.source.chart} never read it")
        return Note(Fate.DROPPED, path, why=f"chart {step.target.chart} has no such value")
    set_at(new, target, value)
    return Note(Fate.KEPT if target == path else Fate.RENAMED, path, target)


def _added(step: Step, old: Mapping[str, Any], new: dict[str, Any]) -> Iterator[Note]:
    """What the old chart did by itself and the new one does only when its values say so."""
    for addition in step.added:
        if value_at(new, addition.path) is None and not (addition.unless and value_at(old, addition.unless)):
            set_at(new, addition.path, addition.value)
            yield Note(Fate.ADDED, addition.path, addition.path, addition.why)
    yield from (Note(Fate.PERSON, path, why=why) for path, why in step.required.items() if value_at(new, path) is None)


def _together(values: Mapping[str, Any], target: Generation, version: Version) -> Migration:
    new: dict[str, Any] = {}
    notes: list[Note] = []
    for path, value in leaves(target, values):
        new_path = moved(TOGETHER, path) or path
        if known(target, new_path, version):
            set_at(new, new_path, value)
            notes.append(Note(Fate.KEPT if new_path == path else Fate.RENAMED, path, new_path))
        else:
            why = "guac and the RDP gateways are now one workload, components.connectionProxy"
            notes.append(Note(Fate.PERSON, path, why=why))
    return Migration(new, tuple(notes))
