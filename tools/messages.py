"""Every sentence that a user can read, in one list: `python -m tools.messages`, grouped by where it is shown.

Collected from the code: strings of `src/vdi` that read as a sentence (three words or more), without those of logs and
docstrings; the text of the pages' templates; and the chart's NOTES. `{name}` stands for what is filled in.
`--words` prints only those with a word that docs/design/language.md leaves behind. Exit status: 0; 1 when `--words`
finds one; 2 usage.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "charts/vdi/templates/NOTES.txt"

WORDS = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"put right": "fix, repair",
    r"anew": "again, new",
    r"nobody": "no one",
    r"is none|are none": "is not ...",
    r"no more\b(?! than)|not any more": "no longer",
    r"told": "reported",
    r"what came of": "result",
    r"(gives|makes|give|make) way": "yields, is replaced",
    r"puts? out": "evicts",
    r"looks? on": "view only",
    r"takes? part": "full control",
    r"all that wait|who waits": "waiting, queue",
    r"asked for": "requested",
    r"longest run": "time limit",
    r"when unused": "idle timeout",
    r"see how it goes on": "follow progress",
    r"room": "capacity",
}
"""Of docs/design/language.md, in sentences that users read: whole words, any case; and what to write."""
SURFACES = (
    ("src/vdi/gateway/api", "REST API"),
    ("src/vdi/gateway", "Portal, login and edge"),
    ("src/vdi/api", "API reference"),
    ("src/vdi/operator", "Status, conditions and Events"),
    ("src/vdi/session", "Status, conditions and Events"),
    ("src/vdi/diagnosis", "Findings"),
    ("src/vdi/findings", "Findings"),
    ("src/vdi/doctor", "Findings"),
    ("src/vdi/kasm", "Kasm"),
    ("src/vdi/gpu", "GPU"),
    ("src/vdi/devcluster", "Embedded cluster and demo"),
    ("src/vdi/demo", "Embedded cluster and demo"),
    ("charts", "Chart"),
    ("src/vdi", "Command line"),
)
"""Folder, and where its sentences are shown. The first that fits counts."""

_WORD = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.IGNORECASE)
_NAMES = re.compile(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}|`[^`]*`")
_SENTENCE = re.compile(r"[;,(: ]{0,2}[A-Za-z{'\"`][^\n]*\s\S+\s[^\n]*")
_PROGRAM = re.compile(
    r"^(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH|kubectl|helm|vdi|k3s|import|from|#!) |\(\?|\\[sdwb]|=\("
)
_LOGGERS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_NO_TEXT = frozenset({"script", "style", "svg"})


class Message(NamedTuple):
    """One sentence, or what is one line of a page."""

    file: str
    line: int
    text: str

    @property
    def surface(self) -> str:
        """Where users read it."""
        return next(surface for folder, surface in SURFACES if self.file.startswith(folder))


def of_python(file: str, text: str) -> Iterator[Message]:
    """Sentences of a module, without docstrings and what is only logged."""
    tree = ast.parse(text)
    hidden = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOGGERS:
            if isinstance(node.func.value, ast.Name) and node.func.value.id in {"log", "logger"}:
                hidden |= {id(part) for argument in node.args for part in ast.walk(argument)}
        elif isinstance(node, ast.JoinedStr):
            hidden |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in hidden or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        found = _filled(node)
        if _SENTENCE.fullmatch(found) and not _PROGRAM.search(found):
            yield Message(file, node.lineno, found)


def _filled(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value.strip() if isinstance(node.value, str) else ""
    parts = (
        f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else ast.literal_eval(part)
        for part in node.values
    )
    return "".join(parts).strip()


class _Text(HTMLParser):
    """The text of a page, block by block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[int, str]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Attributes that are read aloud or shown, and what has no text."""
        self.blocks += [
            (self.getpos()[0], value)
            for name, value in attrs
            if value and name in {"aria-label", "title", "placeholder"}
        ]
        if tag in _NO_TEXT:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """The end of what has no text."""
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Text between two tags."""
        if not self._open and data.strip():
            self.blocks.append((self.getpos()[0], " ".join(data.split())))


def of_page(file: str, text: str) -> Iterator[Message]:
    """Lines of a Jinja template, and what it hands to its macros: two words or more."""
    text = re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)
    for code in re.finditer(r"\{[{%].*?[%}]\}", text, flags=re.DOTALL):
        for string in re.finditer(r'"([A-Z][^"]* [^"]*)"', code[0]):
            yield Message(file, text.count("\n", 0, code.start() + string.start()) + 1, string[1])
    text = re.sub(r"\{\{-?\s*(.*?)\s*-?\}\}", lambda found: "{" + re.sub(r"[<>\"']", "", found[1]) + "}", text)
    text = re.sub(r"\{%.*?%\}", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    parser = _Text()
    parser.feed(text)
    for line, block in parser.blocks:
        if len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{.*?\}", "", block))) > 1:
            yield Message(file, line, block)


def collect() -> list[Message]:
    """Every message of the repository, by surface, file and line."""
    found: list[Message] = []
    for path in (ROOT / "src/vdi").rglob("*.py"):
        found += of_python(path.relative_to(ROOT).as_posix(), path.read_text())
    for path in (ROOT / "src/vdi").rglob("*.html"):
        found += of_page(path.relative_to(ROOT).as_posix(), path.read_text())
    for number, line in enumerate(NOTES.read_text().splitlines(), 1):
        if not line.lstrip().startswith("{{") and len(line.split()) > 2:
            found.append(Message(NOTES.relative_to(ROOT).as_posix(), number, line.strip()))
    order = [surface for _, surface in SURFACES]
    return sorted(found, key=lambda message: (order.index(message.surface), message))


def words_left(messages: Sequence[Message]) -> list[tuple[Message, str]]:
    """Messages with a word to leave behind, and that word."""
    return [(message, found[0]) for message in messages if (found := _WORD.search(_NAMES.sub("", message.text)))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list."""
    parser = argparse.ArgumentParser(prog="python -m tools.messages", description=__doc__.splitlines()[0])
    parser.add_argument("--words", action="store_true", help="only those with a word to leave behind")
    options = parser.parse_args(arguments)
    messages = collect()
    if options.words:
        left = words_left(messages)
        for message, word in left:
            print(f"{message.file}:{message.line}: {word!r}: {message.text}")
        return 1 if left else 0
    for surface, group in groupby(messages, key=lambda message: message.surface):
        print(f"\n## {surface}\n")
        for message in group:
            print(f"{message.file}:{message.line}: {message.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
