"""A values file of one generation as one of a later, with a report. Pure.

Every value of the old file is accounted for in the report, once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vdi.kasm.generations import ALL, A, C, Generation, Version, kasm_version
from vdi.kasm.value_paths import set_at, value_at
from vdi.kasm.values.habits import meant_by
from vdi.kasm.values.migrate_table import ACROSS, CONNECTION, STEPS, TOGETHER, Step, longest, moved
from vdi.kasm.values.schema import known, tree_of, was_ever_known


class Fate(StrEnum):
    """What became of a value."""

    KEPT = "kept"
    RENAMED = "renamed"
    DROPPED = "dropped"
    ADDED = "added"
    PERSON = "needs a person"


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the report."""

    fate: Fate
    path: str
    """In the old file; of an added one in the new."""
    new_path: str = ""
    why: str = ""


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
            f"there is no way back from generation {source.letter} ({source.chart}) to {target.letter}"
            f" ({target.chart}); allowed: {', '.join(each.letter for each in ALL[start:])}"
        )
    habits = list(_habits(source, values, target, version))
    old = _without(values, [path for path, _ in habits])
    done = Migration(old, tuple(Note(Fate.KEPT, path, path) for path, _ in leaves(source, old)))
    for step in STEPS[start:end]:
        done = _joined(done, _step(step, done.values))
    if source is A and target is C:
        done = _across(done, values)
    if known(target, CONNECTION, version):
        done = _joined(done, _together(done.values, version or C.newest))
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
            notes.append(Note(Fate.DROPPED, path, why=why or "the new chart has nothing in its place"))
        elif present is not None and present != value:
            notes.append(Note(Fate.PERSON, path, why=f"{new} is {present} already: decide which one is right"))
        else:
            notes = [note for note in notes if note is not added]
            set_at(done.values, new, value)
            written[new] = value
            notes.append(Note(Fate.RENAMED, path, new))
    return Migration(done.values, tuple(notes))


def _across(done: Migration, values: Mapping[str, Any]) -> Migration:
    """What generation B has no value for, and A and C have."""
    notes = []
    for note in done.notes:
        new = ACROSS.get(note.path)
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
    special = _special(step, path, value, new)
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


def _special(step: Step, path: str, value: Any, new: dict[str, Any]) -> Note | None:
    """Values that are not merely moved; None for all others."""
    if path == "global.image.pullSecrets" and value:
        set_at(new, "imagePullSecrets.enabled", True)
        set_at(new, "imagePullSecrets.name", value)
        return Note(Fate.RENAMED, path, "imagePullSecrets.name")
    if path == "kasmApp.zoneName" and value in ("", "default"):
        return Note(Fate.DROPPED, path, why="one zone called default is what the chart makes by itself")
    if path in ("global.namespace", "kasmApp.name") and not value:
        return Note(Fate.DROPPED, path, why="it was empty")
    if path.startswith(("global.kasmPasswords.", "kasmCerts.")) and _is_empty(value):
        return Note(Fate.DROPPED, path, why="it was empty")
    if path.startswith("kasmApp.servicesToDeploy.") and path.endswith(".image") and str(value).startswith(_OWN_IMAGES):
        return Note(Fate.DROPPED, path, why="the new chart brings its own images")
    if step.target is C:
        return _special_c(path, value, new)
    return None


_OWN_IMAGES = ("kasmweb/", "redis")


def _is_empty(value: Any) -> bool:
    """Nothing, or the chart's place holder, which is a comment inside of a text."""
    return value in ("", None) or (isinstance(value, str) and value.lstrip().startswith("#"))


def _special_c(path: str, value: Any, new: dict[str, Any]) -> Note | None:
    if path == "kasmZones":
        set_at(new, path, [_zone(zone, first=number == 0) for number, zone in enumerate(value or [])])
        return Note(Fate.KEPT, path, path, "upstream_auth_addr is proxy_hostname now; the first zone is marked primary")
    if path == "database.standalone" and value is True:
        set_at(new, path, value)
        return Note(Fate.PERSON, path, path, "move the data to a PostgreSQL 16 server before the upgrade")
    if path == "database.hostname" and value == "kasm-db":
        return Note(Fate.DROPPED, path, why="the bundled database's Service is <release>-db now")
    if path.endswith(".image.repository"):
        registry, _, rest = str(value).partition("/")
        if "." in registry or ":" in registry or registry == "localhost":
            set_at(new, path, rest)
            set_at(new, f"{path.removesuffix('repository')}registry", registry)
            return Note(Fate.KEPT, path, path, "the registry is a value of its own now (image.registry)")
    if path in ("dbManagement.initialize", "dbManagement.upgrade.enable"):
        set_at(new, path, path == "dbManagement.upgrade.enable")
        return Note(Fate.KEPT, path, path, "set for the upgrade of a Kasm that exists")
    return None


def _zone(zone: Any, *, first: bool) -> Any:
    if not isinstance(zone, Mapping):
        return zone
    renamed = {{"upstream_auth_addr": "proxy_hostname"}.get(key, key): value for key, value in zone.items()}
    return {**renamed, "primary": True} if first else renamed


def _added(step: Step, old: Mapping[str, Any], new: dict[str, Any]) -> Iterator[Note]:
    """What the old chart did by itself and the new one does only when its values say so."""
    additions: list[tuple[str, Any, str]] = []
    if step.target is C:
        tag = kasm_version(".".join(str(number) for number in C.newest))
        additions = [
            ("dbManagement.initialize", False, "this Kasm exists: initialising would begin with an empty database"),
            ("dbManagement.upgrade.enable", True, "dumps the database before the change and restores it afterwards"),
            ("useImageTags", tag, "some chart versions name images of the development branch"),
        ]
    else:
        additions = [
            ("proxyService.type", "ClusterIP", "generation A had no LoadBalancer"),
            ("ingress.enabled", True, "generation A always made its Ingress"),
        ]
    if not value_at(old, "database.standalone"):
        additions.append(("database.storage.retentionPolicy.whenDeleted", "Retain", "Delete would take the data along"))
    for path, value, why in additions:
        if value_at(new, path) is None:
            set_at(new, path, value)
            yield Note(Fate.ADDED, path, path, why)
    if value_at(new, "certificate.secretName") is None:
        yield Note(Fate.PERSON, "certificate.secretName", why="name a Secret of type kubernetes.io/tls: pods mount it")


def _together(values: Mapping[str, Any], version: Version) -> Migration:
    new: dict[str, Any] = {}
    notes: list[Note] = []
    for path, value in leaves(C, values):
        target = moved(TOGETHER, path) or path
        if known(C, target, version):
            set_at(new, target, value)
            notes.append(Note(Fate.KEPT if target == path else Fate.RENAMED, path, target))
        else:
            why = "guac and the RDP gateways are one workload now, components.connectionProxy"
            notes.append(Note(Fate.PERSON, path, why=why))
    return Migration(new, tuple(notes))
