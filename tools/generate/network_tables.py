"""The tables in docs/network.md, made from tests/network/matrix.yaml."""

from pathlib import Path

from network.matrix import Variant, load
from tools.generate.page import replace_generated

PAGE = Path(__file__).parents[2] / "docs/network.md"
# Their order; who may nothing in a variant has none.
COLUMNS = ("Traefik", "operator", "gateway", "desktop", "Prometheus", "doctor", "probe", "node with coturn")


def grid(variant: Variant) -> list[str]:
    """Every row of a variant with a mark for each who may."""
    columns = [column for column in COLUMNS if any(column in who for who in variant.rows.values())]
    lines = [f"| to | port | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for target, ports, who in _merged(dict(sorted(variant.rows.items(), key=_place))):
        if set(who) - set(COLUMNS):
            raise ValueError(f"{target} {ports}: {who}; allowed: {', '.join(COLUMNS)}")
        if who:
            lines.append(f"| {target} | {ports} | {' | '.join('yes' if column in who else '' for column in columns)} |")
    return lines


def _merged(rows: dict[str, tuple[str, ...]]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Rows as (target, ports, who): ports of one target that the same people may use share a row."""
    found: dict[tuple[str, frozenset[str]], list[str]] = {}
    names: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    for row, who in rows.items():
        target, _, port = row.rpartition(" ")
        found.setdefault((target, frozenset(who)), []).append(port.removesuffix("/TCP").replace("/UDP", " UDP"))
        names.setdefault((target, frozenset(who)), who)
    return [(target, ", ".join(ports), names[target, who]) for (target, who), ports in found.items()]


def _place(item: tuple[str, tuple[str, ...]]) -> tuple[int, str, int]:
    """Our own pods first, then names, the API server, and the rest of the world."""
    target, _, port = item[0].rpartition(" ")
    order = ("desktop", "gateway", "operator", "PostgreSQL", "Redis", "node with coturn", "DNS", "DNS on the node")
    number = order.index(target) if target in order else len(order)
    return number, target, int(port.partition("/")[0])


def differences(variant: Variant, base: Variant) -> list[str]:
    """What a variant has otherwise than the default."""
    rows = {row: who for row, who in variant.rows.items() if who != base.rows.get(row, ())}
    lines = ["| to | port | who may |", "|---|---|---|"]
    return lines + [f"| {target} | {ports} | {', '.join(who) or 'nobody'} |" for target, ports, who in _merged(rows)]


def tables() -> str:
    base, production, *others = load()
    lines: list[str] = []
    for each in (base, production):
        lines += [f"### {each.name.capitalize()}: {each.words}", "", *_values(each), *grid(each), ""]
    for other in others:
        same = "The same as by default." if other.rows == base.rows else ""
        table = [same] if same else differences(other, base)
        lines += [f"### {other.name[0].upper()}{other.name[1:]}: {other.words}", "", *_values(other), *table, ""]
    return "\n".join(lines).rstrip()


def _values(variant: Variant) -> list[str]:
    return ["```", *(f"--set {one}" for one in variant.set), "```", ""] if variant.set else []


def page_text(current: str) -> str:
    """docs/network.md with its current tables."""
    return replace_generated(current, tables())
