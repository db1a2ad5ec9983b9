"""A user's own values file against the generation it is for: findings, each with what to write in its place. Pure.

Helm is silent about most keys that a chart does not know: `global.hostname` in generation C changes nothing at all.
Where a schema refuses one, it does not say what to write. So every key is looked up, and one of another generation or
of a tutorial is answered with this chart's name for it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vdi.findings.model import Finding, Severity
from vdi.kasm.generations import ALL, Generation
from vdi.kasm.values.habits import meant_by
from vdi.kasm.values.migrate_table import renamed_to
from vdi.kasm.values.options import is_address
from vdi.kasm.values.rules import Code, Subject, problem, rules
from vdi.kasm.values.schema import ZONE_KEYS, known, nearest, tree_of, versions_of
from vdi.session.units import parse_quantity

_WORDS = {
    "str": "a text",
    "int": "a whole number from 0 up",
    "bool": "true or false",
    "map": "a block of keys",
    "list": "a list",
    "resources": "a block with requests and limits",
    "zones": "a list of zones",
    "address": "an IP address",
}
_QUANTITIES = ("cpu", "memory", "ephemeral-storage")


def check_values(subject: Subject) -> tuple[Finding, ...]:
    """Errors first, then warnings; each group in the file's order."""
    found = [*_keys(subject, tree_of(subject.generation), subject.values, ""), *rules(subject)]
    return tuple(sorted(found, key=lambda each: each.severity is not Severity.ERROR))


def looks_like(subject: Subject) -> Generation | None:
    """The generation that reads more of the file's values than the one it was held against; None when none does."""
    paths = list(_paths(subject.values, ""))

    def read_by(generation: Generation) -> int:
        version = subject.version if generation is subject.generation else generation.newest
        return sum(1 for path in paths if known(generation, path, version))

    best = max(ALL, key=read_by)
    return best if read_by(best) > read_by(subject.generation) else None


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _keys(subject: Subject, tree: Mapping[str, Any], values: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        kind = tree.get(key)
        if kind is None or not known(subject.generation, path, subject.version):
            yield from _unknown(subject, path, value)
        elif value is None:
            continue  # Helm takes null for "as the chart has it"
        elif isinstance(kind, Mapping):
            if isinstance(value, Mapping):
                yield from _keys(subject, kind, value, f"{path}.")
            else:
                yield problem(Code.INVALID_VALUE, path, f"is {_shown(value)}; allowed: {_WORDS['map']}.")
        else:
            yield from _kind(subject, path, value, kind)


def _unknown(subject: Subject, path: str, value: Any) -> Iterator[Finding]:
    """What is said of a key that the chart does not read: of a block of another generation, of each key inside."""
    chart = f"chart {subject.chart_words}"
    new, owner = renamed_to(subject.generation, path, subject.version)
    meant = meant_by(subject.generation, path, subject.version)
    if not new and meant is None and isinstance(value, Mapping) and _is_answered_inside(subject, path, value):
        for key, below in value.items():
            yield from _unknown(subject, f"{path}.{key}", below)
        return
    if new and owner is subject.generation:
        message, remedy = f"is not read by this version of {chart}.", f"Set {new}"
    elif new and owner is not None:
        message = f"is a value of generation {owner.letter} ({owner.chart}); {chart} does not read it."
        remedy = f"Set {new}"
    elif owner is not None:
        message = f"is a value of generation {owner.letter} ({owner.chart}); {chart} has no replacement for it."
        remedy = "Remove it; vdi kasm values migrate shows the replacement."
    elif meant is not None:
        message = f"is not read by {chart}{'' if meant[0] else ', which has no replacement for it'}."
        why = f": {meant[1]}" if meant[1] else ""
        remedy = f"Set {meant[0]}" if meant[0] else f"Remove it{why}."
    else:
        versions = versions_of(subject.generation, path)
        near = nearest(subject.generation, path, subject.version)
        message = f"is not read by {chart}" + (
            f", only {_span_words(versions.since, versions.until)}." if versions else "."
        )
        remedy = f"Did you mean {near}?" if near and not versions else ""
    yield problem(Code.UNKNOWN_KEY, path, message, remedy)


def _is_answered_inside(subject: Subject, path: str, value: Mapping[str, Any]) -> bool:
    """Whether there is a better answer for a key of this block than for the block as a whole."""
    for key, below in value.items():
        inner = f"{path}.{key}"
        if renamed_to(subject.generation, inner, subject.version)[0]:
            return True
        if meant_by(subject.generation, inner, subject.version) is not None:
            return True
        if isinstance(below, Mapping) and _is_answered_inside(subject, inner, below):
            return True
    return False


def _span_words(since: tuple[int, ...] | None, until: tuple[int, ...] | None) -> str:
    parts = [f"from {'.'.join(map(str, since))}"] if since else []
    return " ".join([*parts, *([f"up to {'.'.join(map(str, until))}"] if until else [])])


def _kind(subject: Subject, path: str, value: Any, kind: str) -> Iterator[Finding]:
    if kind == "resources":
        yield from _resources(path, value)
    elif kind == "zones":
        yield from _zones(subject, path, value)
    elif not any(_fits(value, part) for part in kind.split("|")):
        yield problem(Code.INVALID_VALUE, path, f"is {_shown(value)}; allowed: {_allowed(kind)}.")


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "str":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0
        case "bool":
            return isinstance(value, bool)
        case "map":
            return isinstance(value, Mapping)
        case "list":
            return isinstance(value, list)
        case "address":
            return value == "" or (isinstance(value, str) and is_address(value))
        case _:
            return bool(value == kind)


def _allowed(kind: str) -> str:
    return ", ".join(_WORDS.get(part, part) for part in kind.split("|"))


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _resources(path: str, value: Any) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield problem(Code.INVALID_VALUE, path, f"is {_shown(value)}; allowed: {_WORDS['resources']}.")
        return
    amounts: dict[tuple[str, str], Any] = {}
    for part, block in value.items():
        if part not in ("requests", "limits", "claims"):
            yield problem(
                Code.INVALID_VALUE, f"{path}.{part}", "is not part of resources.", "Allowed: requests, limits."
            )
        elif part != "claims" and not isinstance(block, Mapping | None):
            yield problem(Code.INVALID_VALUE, f"{path}.{part}", f"is {_shown(block)}; allowed: cpu and memory.")
        elif part != "claims":
            for name, amount in (block or {}).items():
                amounts[part, name] = amount
    for (part, name), amount in amounts.items():
        try:
            size = parse_quantity(amount if isinstance(amount, int) else str(amount))
        except ValueError as error:
            yield problem(Code.INVALID_VALUE, f"{path}.{part}.{name}", f"{error}.")
            continue
        limit = amounts.get(("limits", name))
        if part == "requests" and name in _QUANTITIES and limit is not None and _less(limit, size):
            yield problem(
                Code.INVALID_VALUE, f"{path}.requests.{name}", f"is {amount}, more than the limit of {limit}."
            )


def _less(limit: Any, size: Any) -> bool:
    try:
        return bool(parse_quantity(str(limit)) < size)
    except ValueError:
        return False


def _zones(subject: Subject, path: str, value: Any) -> Iterator[Finding]:
    if not isinstance(value, list):
        yield problem(Code.INVALID_VALUE, path, f"is {_shown(value)}; allowed: {_WORDS['zones']}.")
        return
    keys = ZONE_KEYS[subject.generation.letter]
    for number, zone in enumerate(value):
        if not isinstance(zone, Mapping):
            yield problem(
                Code.INVALID_VALUE, f"{path}[{number}]", f"is {_shown(zone)}; allowed: a block with {', '.join(keys)}."
            )
            continue
        for key, inner in zone.items():
            if key not in keys:
                meant = ADDRESSES.get(key, "")
                right = subject.generation.paths["zone_address"]
                remedy = f"Set {right}" if meant else f"Allowed: {', '.join(keys)}."
                yield problem(Code.INVALID_VALUE, f"{path}[{number}].{key}", "is not read by this chart.", remedy)
            elif inner is not None and not _fits(inner, keys[key]):
                yield problem(
                    Code.INVALID_VALUE,
                    f"{path}[{number}].{key}",
                    f"is {_shown(inner)}; allowed: {_allowed(keys[key])}.",
                )


ADDRESSES = {"upstream_auth_addr": "B", "proxy_hostname": "C", "proxyAddress": "C"}
"""What a zone's address is called, and where."""
