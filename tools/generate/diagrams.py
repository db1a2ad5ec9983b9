"""The diagrams of the documentation: docs/diagrams/NAME.yaml, a text, becomes NAME.svg.

A source has boxes on a grid, notes beside them, and straight arrows between boxes. `at` is column and row. The SVG
loads nothing, and follows the colour scheme of the reader's system.
"""

from html import escape
from pathlib import Path
from typing import Literal

import msgspec

from tools.generate.chart_render import ROOT

FOLDER = ROOT / "docs/diagrams"

_BOX_WIDTH, _COLUMN, _ROW_GAP, _MARGIN = 172, 284, 46, 16
_LINE_HEIGHT, _PADDING = 18, 12
_BOX_CHARACTERS, _ARROW_CHARACTERS = 24, 17
_LABEL_GAP = 7
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; text-anchor: middle }
.head { font-weight: 600; font-size: 14px }
.note { text-anchor: start }
.label { font-size: 12px; fill: #57606a }
.beside { text-anchor: start }
.background { fill: #ffffff }
.plain { fill: #f6f8fa; stroke: #8c959f }
.strong { fill: #ddf4ff; stroke: #0969da }
.warn { fill: #fff8c5; stroke: #9a6700 }
path { stroke: #57606a; stroke-width: 1.5; fill: none; marker-end: url(#head) }
#head path { fill: #57606a; stroke: none; marker-end: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.label { fill: #9da7b1 }
.background { fill: #0d1117 }
.plain { fill: #161b22; stroke: #6e7681 }
.strong { fill: #0c2d6b; stroke: #58a6ff }
.warn { fill: #3b2300; stroke: #d29922 }
path { stroke: #9da7b1 }
#head path { fill: #9da7b1 }
}
"""


class DiagramError(ValueError):
    """Raised when a source names what is not there, or has a text that does not fit."""


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: tuple[int, int]
    lines: tuple[str, ...]


class _Box(_Note, frozen=True, forbid_unknown_fields=True):
    look: Literal["plain", "strong", "warn"] = "plain"


class _Arrow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from", "target": "to"}):
    source: str
    target: str
    lines: tuple[str, ...] = ()


class _Diagram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    boxes: dict[str, _Box]
    arrows: tuple[_Arrow, ...] = ()
    notes: tuple[_Note, ...] = ()


def render() -> dict[Path, str]:
    """Each SVG with its text."""
    return {path.with_suffix(".svg"): draw(path.read_text(), path.name) for path in sorted(FOLDER.glob("*.yaml"))}


def draw(source: str, name: str) -> str:
    """The SVG of a source; DiagramError when it is wrong."""
    try:
        diagram = msgspec.yaml.decode(source, type=_Diagram)
    except msgspec.MsgspecError as error:
        raise DiagramError(f"{name}: {error}") from error
    for problem in _problems(diagram):
        raise DiagramError(f"{name}: {problem}")
    cells = [*diagram.boxes.values(), *diagram.notes]
    box_height = max(len(cell.lines) for cell in cells) * _LINE_HEIGHT + _PADDING
    row = box_height + _ROW_GAP
    width = max(cell.at[0] for cell in cells) * _COLUMN + _BOX_WIDTH + 2 * _MARGIN
    height = max(cell.at[1] for cell in cells) * row + box_height + 2 * _MARGIN
    parts = [_box(box, row, box_height) for box in diagram.boxes.values()]
    parts += [_note(note, row, box_height) for note in diagram.notes]
    pairs = {(arrow.source, arrow.target) for arrow in diagram.arrows}
    for arrow in diagram.arrows:
        shift = 8.0 if (arrow.target, arrow.source) in pairs else 0.0
        parts.append(_arrow(arrow, diagram.boxes, row, box_height, shift))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" width="{width}">',
            f"<title>{escape(diagram.title)}</title>",
            f"<style>{_STYLE}</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
            '<path d="M0 0 L8 4 L0 8 z"/></marker>',
            '<rect class="background" width="100%" height="100%" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _problems(diagram: _Diagram) -> list[str]:
    problems: list[str] = []
    taken: dict[tuple[int, int], str] = {}
    for name, box in diagram.boxes.items():
        if box.at in taken:
            problems.append(f"boxes.{name}.at is {list(box.at)}, where box {taken[box.at]} is")
        taken[box.at] = name
        problems += _too_long(f"boxes.{name}", box.lines, _BOX_CHARACTERS)
    for number, note in enumerate(diagram.notes):
        problems += _too_long(f"notes[{number}]", note.lines, _BOX_CHARACTERS)
    for number, arrow in enumerate(diagram.arrows):
        for field, name in (("from", arrow.source), ("to", arrow.target)):
            if name not in diagram.boxes:
                problems.append(f"arrows[{number}].{field} is {name!r}; allowed: {', '.join(diagram.boxes)}")
        problems += _too_long(f"arrows[{number}]", arrow.lines, _ARROW_CHARACTERS)
    return problems


def _too_long(field: str, lines: tuple[str, ...], most: int) -> list[str]:
    return [
        f"{field}.lines[{number}] has {len(line)} characters; at most {most} fit"
        for number, line in enumerate(lines)
        if len(line) > most
    ]


def _corner(at: tuple[int, int], row: int) -> tuple[int, int]:
    return _MARGIN + at[0] * _COLUMN, _MARGIN + at[1] * row


def _text(x: float, y: float, line: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}>{escape(line, quote=False)}</text>'


def _box(box: _Box, row: int, height: int) -> str:
    x, y = _corner(box.at, row)
    first = y + (height - len(box.lines) * _LINE_HEIGHT) / 2 + 13
    rectangle = f'<rect class="{box.look}" x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{height}" rx="6"/>'
    return "\n".join(
        [
            rectangle,
            *(
                _text(x + _BOX_WIDTH / 2, first + number * _LINE_HEIGHT, line, "" if number else "head")
                for number, line in enumerate(box.lines)
            ),
        ]
    )


def _note(note: _Note, row: int, height: int) -> str:
    x, y = _corner(note.at, row)
    first = y + (height - len(note.lines) * _LINE_HEIGHT) / 2 + 13
    return "\n".join(
        _text(x, first + number * _LINE_HEIGHT, line, "note" if number else "head note")
        for number, line in enumerate(note.lines)
    )


def _arrow(arrow: _Arrow, boxes: dict[str, _Box], row: int, height: int, shift: float) -> str:
    """A straight line from border to border; one that has a way back beside it is moved aside by `shift`."""
    source, target = (_corner(boxes[name].at, row) for name in (arrow.source, arrow.target))
    start = (source[0] + _BOX_WIDTH / 2, source[1] + height / 2)
    end = (target[0] + _BOX_WIDTH / 2, target[1] + height / 2)
    across, down = end[0] - start[0], end[1] - start[1]
    length = (across**2 + down**2) ** 0.5
    aside = (-down / length * shift, across / length * shift)
    # From the centre to the border: as far as the nearer of the two borders that the line crosses.
    border = min(
        _BOX_WIDTH / 2 / abs(across) if across else 1,
        height / 2 / abs(down) if down else 1,
    )
    first = (start[0] + across * border + aside[0], start[1] + down * border + aside[1])
    last = (end[0] - across * border + aside[0], end[1] - down * border + aside[1])
    parts = [f'<path d="M{first[0]:g} {first[1]:g} L{last[0]:g} {last[1]:g}"/>']
    middle = ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2)
    for number, line in enumerate(arrow.lines):
        if down:  # beside the line
            slope = across * down / max(abs(across * down), 1)  # a slanted line would cross a text at its height
            y = middle[1] + (number - (len(arrow.lines) - 1) / 2) * 15 + 4 - slope * 14
            parts.append(_text(middle[0] + _LABEL_GAP + 2, y, line, "label beside"))
        else:  # above the line, or below it where the line above it goes the other way
            above = middle[1] - _LABEL_GAP - (len(arrow.lines) - 1 - number) * 15
            below = middle[1] + _LABEL_GAP + 10 + number * 15
            parts.append(_text(middle[0], below if aside[1] > 0 else above, line, "label"))
    return "\n".join(parts)
