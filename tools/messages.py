"""Every sentence that a user can read, in one list: `python -m tools.messages`, grouped by where it is shown.

Collected from the code: strings of `src/vdi` that read as a sentence (three words or more), without those of logs and
docstrings; docstrings that are shown (help of commands, kinds in the API's schemas); texts of the pages' templates and
scripts; the chart's NOTES and alerts, and why it refuses values. `{name}` stands for what is filled in.
`--words` prints only those with a word that docs/design/language.md leaves behind. Exit status: 0; 1 when `--words`
finds one; 2 usage.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeGuard

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "charts/vdi/templates/NOTES.txt"
SCHEMAS = ("src/vdi/api/", "src/vdi/gateway/api/")
"""Where docstrings of classes are descriptions in a schema."""

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
    r"left out": "absent, default",
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
_SENTENCE = re.compile(r"[;,(: ]{0,2}[A-Za-z0-9{'\"`][^\n]*\s\S+\s[^\n]*")
_PROGRAM = re.compile(
    r"^(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH|import|from|#!) |^(kubectl|helm|vdi|k3s) .*[^.]$|"
    r"\(\?|\\[sdwb]|=\("
)
_COMMAND = re.compile(r"`[^`]+ [^`]+`|\b(vdi|kubectl|helm|curl) [a-z]")
_STEP = re.compile(
    r"\b(add|allow|apply|ask|bring|change|check|choose|configure|correct|create|delete|describe|end|enlarge|find|fix|follow|"
    r"free|get|give|grant|initialise|install|keep|label|let|log|make|name|open|pull|query|raise|read|remove|render|"
    r"renew|report|request|restart|restore|run|scale|see|send|set|start|stop|suspend|take|try|uninstall|upgrade|use|"
    r"wait)\b",
    re.IGNORECASE,
)
"""Verbs that begin a concrete step."""

_SCRIPT_STRING = re.compile(r"""(?<![\w=])(["`])([A-Z][^"`\n]*? [^"`\n]*? [^"`\n]*?)\1""")
_FAIL = re.compile(r"""\bfail \(?(?:printf )?"((?:[^"\\]|\\.)+)\"""")
_ALERT = re.compile(r"""^ +(?:summary|description): (["']?)(.+)\1$""", re.MULTILINE)
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


class Remedy(NamedTuple):
    """What to do about a problem: a sentence, and whether commands follow it."""

    message: Message
    has_commands: bool

    def faults(self) -> list[str]:
        """What the rules for remedies (docs/design/language.md) find in it."""
        text = self.message.text
        end = not re.search(r"[^.]\.$", text) and not (self.has_commands and text.endswith(":"))
        steps = self.has_commands or _COMMAND.search(text) or _STEP.search(_NAMES.sub("", text))
        return ["one full stop at its end"] * end + ["a command or a concrete step"] * (not steps)


def of_python(file: str, text: str) -> Iterator[Message]:
    """Sentences of a module, without docstrings and what is only logged."""
    nodes = list(ast.walk(ast.parse(text)))
    hidden = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if _is_shown(node, file):
            yield from _paragraphs(file, node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOGGERS:
            if isinstance(node.func.value, ast.Name) and node.func.value.id in {"log", "logger"}:
                hidden |= {id(part) for argument in node.args for part in ast.walk(argument)}
        elif isinstance(node, ast.JoinedStr):
            hidden |= {id(part) for part in node.values}
    for node in nodes:
        if id(node) in hidden or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        found = _filled(node)
        if _SENTENCE.fullmatch(found) and not _PROGRAM.search(found):
            yield Message(file, node.lineno, found)


def remedies_of(file: str, text: str) -> Iterator[Remedy]:
    """The sentences of `Remedy(...)` and of keywords `remedy`, which the codes of a catalogue have."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "Remedy" and node.args:
            for sentence in _branches(node.args[0]):
                yield Remedy(Message(file, node.lineno, sentence), has_commands=len(node.args) + len(node.keywords) > 1)
        for keyword in node.keywords:
            if keyword.arg == "remedy":
                for sentence in _branches(keyword.value):
                    yield Remedy(Message(file, node.lineno, sentence), has_commands=False)


def _branches(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _branches(node.body)
        yield from _branches(node.orelse)
    elif isinstance(node, ast.Constant | ast.JoinedStr) and (text := _filled(node)):
        yield text


def collect_remedies() -> list[Remedy]:
    """Every remedy of the repository."""
    return [
        remedy
        for path in sorted((ROOT / "src/vdi").rglob("*.py"))
        if re.search(r"Remedy\(|remedy=", text := path.read_text())
        for remedy in remedies_of(path.relative_to(ROOT).as_posix(), text)
    ]


def _is_shown(node: ast.AST, file: str) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    """Whether its docstring is the help of a command, or a description in a schema."""
    if isinstance(node, ast.ClassDef):
        return file.startswith(SCHEMAS)
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith((".command", ".callback"))
        for decorator in node.decorator_list
    )


def _paragraphs(file: str, node: ast.FunctionDef | ast.ClassDef) -> Iterator[Message]:
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        text = " ".join(paragraph.split())
        if _SENTENCE.fullmatch(text):
            yield Message(file, node.lineno, text)


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


def of_script(file: str, text: str) -> Iterator[Message]:
    """Sentences that a page's script shows."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    for found in _SCRIPT_STRING.finditer(text):
        yield Message(file, text.count("\n", 0, found.start()) + 1, found[2])


def of_chart(file: str, text: str) -> Iterator[Message]:
    """Why the chart refuses values."""
    for found in _FAIL.finditer(text):
        yield Message(file, text.count("\n", 0, found.start()) + 1, found[1])


def of_alerts(file: str, text: str) -> Iterator[Message]:
    """Summaries and descriptions of Prometheus' alerts."""
    for found in _ALERT.finditer(text):
        yield Message(file, text.count("\n", 0, found.start()) + 1, found[2])


@cache
def collect() -> list[Message]:
    """Every message of the repository, by surface, file and line."""
    found: list[Message] = []
    for path in (ROOT / "src/vdi").rglob("*.py"):
        found += of_python(path.relative_to(ROOT).as_posix(), path.read_text())
    for path in (ROOT / "src/vdi").rglob("*.html"):
        found += of_page(path.relative_to(ROOT).as_posix(), path.read_text())
    for path in (ROOT / "src/vdi").rglob("*.js"):
        if not path.name.endswith(".min.js"):
            found += of_script(path.relative_to(ROOT).as_posix(), path.read_text())
    for path in (ROOT / "charts").rglob("templates/*"):
        if path.suffix in {".yaml", ".tpl"}:
            found += of_chart(path.relative_to(ROOT).as_posix(), path.read_text())
    for path in (ROOT / "charts/vdi/files/monitoring").glob("*.yaml"):
        found += of_alerts(path.relative_to(ROOT).as_posix(), path.read_text())
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
