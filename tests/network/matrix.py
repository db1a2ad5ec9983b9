"""The expected matrix, as people read it in matrix.yaml, and what it says about each question."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from network.roles import Question

FILE = Path(__file__).parent / "matrix.yaml"
DEFAULT = "default"
SAID = {
    "y": "both ends allow it",
    "e": "only the sender's policies deny it",
    "i": "only the receiver's policies deny it",
    "n": "both ends deny it",
}


@dataclass(frozen=True)
class Variant:
    """One way to install the chart, and who may then connect to whom."""

    name: str
    words: str
    # Values, as `--set` takes them.
    set: tuple[str, ...]
    # By row, `target port`: who may connect.
    rows: dict[str, tuple[str, ...]]
    # By row: whose own policies let them try what the target's policies deny.
    in_vain: dict[str, tuple[str, ...]]
    # By row: whom the target would let in, but their own policies don't let them try.
    unasked: dict[str, tuple[str, ...]]
    # What else there is, as `roles.roles_of` takes it.
    world: dict[str, Any]

    def allows(self, question: Question) -> bool:
        """Whether this traffic is expected to be let through."""
        return _names(self.rows, question)

    def expects(self, question: Question) -> str:
        """The evaluator's letter. What is denied is denied at both ends, as far as they are
        ours.
        """
        if self.allows(question):
            return "y"
        if not question.source.is_ours or _names(self.in_vain, question):
            return "i"
        if _names(self.unasked, question):
            return "e"
        return "n" if question.target.is_ours else "e"


def _names(rows: dict[str, tuple[str, ...]], question: Question) -> bool:
    named = {name for row in _spellings(question.row) for name in rows.get(row, ())}
    return bool(named & _spellings(question.source.name))


def _spellings(name: str) -> set[str]:
    """A desktop of one template is a desktop."""
    if not name.startswith("desktop of "):
        return {name}
    _, _, port = name.removeprefix("desktop of ").partition(" ")
    return {name, f"desktop {port}".strip()}


def load() -> list[Variant]:
    """All variants, the default one first."""
    read: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())
    return [_variant(name, read[DEFAULT], given) for name, given in read.items()]


def _variant(name: str, base: dict[str, Any], given: dict[str, Any]) -> Variant:
    def rows(key: str) -> dict[str, tuple[str, ...]]:
        return {row: tuple(who) for row, who in {**base.get(key, {}), **given.get(key, {})}.items()}

    world = {
        **given.get("addresses", {}),
        **{key: given[key] for key in ("namespace", "template") if key in given},
    }
    return Variant(
        name,
        given["words"],
        tuple(given["set"]),
        rows("rows"),
        rows("in vain"),
        rows("unasked"),
        world,
    )


def contradictions(variant: Variant, asked: Iterable[Question], answers: str) -> Iterator[str]:
    """The answers that differ from the expected ones, as sentences."""
    for question, answer in zip(asked, answers, strict=True):
        expected = variant.expects(question)
        if expected != answer:
            who = (
                f"{question.source.name} ({question.source.ip}) -> {question.row}"
                f" ({question.target.ip})"
            )
            yield f"{who}: {SAID[answer]}, expected: {SAID[expected]}"
