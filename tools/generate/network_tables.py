"""The tables in docs/network.md, made from tests/network/matrix.yaml."""

import textwrap
from pathlib import Path

from network.matrix import Variant, load
from tools.generate.page import replace_generated

PAGE = Path(__file__).parents[2] / "docs/network.md"


def grid(variant: Variant) -> list[str]:
    """Every row of a variant, with all who may."""
    return _table({row: who for row, who in variant.rows.items() if who})


def _merged(rows: dict[str, tuple[str, ...]]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Rows as (target, ports, who): ports of one target that the same people may use share a
    row.
    """
    ports_of: dict[tuple[str, frozenset[str]], list[str]] = {}
    names: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    for row, who in rows.items():
        target, _, port = row.rpartition(" ")
        ports_of.setdefault((target, frozenset(who)), []).append(
            port.removesuffix("/TCP").replace("/UDP", " UDP")
        )
        names.setdefault((target, frozenset(who)), who)
    return [
        (target, ", ".join(ports), names[target, who]) for (target, who), ports in ports_of.items()
    ]


def _place(item: tuple[str, tuple[str, ...]]) -> tuple[int, str, int]:
    """Our own pods first, then names, the API server, and the rest of the world."""
    target, _, port = item[0].rpartition(" ")
    order = (
        "desktop",
        "gateway",
        "operator",
        "PostgreSQL",
        "Redis",
        "node with coturn",
        "DNS",
        "DNS on the node",
    )
    number = order.index(target) if target in order else len(order)
    return number, target, int(port.partition("/")[0])


def _table(rows: dict[str, tuple[str, ...]]) -> list[str]:
    lines = ["| to | port | who may |", "|---|---|---|"]
    for target, ports, who in _merged(dict(sorted(rows.items(), key=_place))):
        lines.append(f"| {target} | {ports} | {', '.join(who) or 'no one'} |")
    return lines


def tables() -> str:
    base, production, *others = load()
    lines: list[str] = []
    for each in (base, production):
        lines += [
            f"### {each.name.capitalize()}: {each.words}",
            "",
            *_values(each),
            *grid(each),
            "",
        ]
    lines += ["Real packets test these too (`tests/network/matrix.yaml` has their tables):", ""]
    lines += [
        textwrap.fill(f"- {other.name}: {other.words}", 120, subsequent_indent="  ")
        for other in others
    ]
    return "\n".join(lines)


def _values(variant: Variant) -> list[str]:
    return ["```", *(f"--set {one}" for one in variant.set), "```", ""] if variant.set else []


def page_text(current: str) -> str:
    """docs/network.md with its current tables."""
    return replace_generated(current, tables())
