"""Words that docs/design/language.md leaves behind: in identifiers and docstrings of Python, in comments of every
language, and in developer docs.

`python -m tools.check_language` names each place. Sentences that users read are not checked here, but by
`python -m tools.messages`. Exit status: 0 none found, 1 some.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CODE = ("src", "tests", "bench", "tools", "charts", "images")
DOCS = ("CONTRIBUTING.md", "docs/design")
NOT_CHECKED = (Path(__file__).name, "renames.md", "language.md")

_HASH = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
_SLASH = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
COMMENTS = {
    **dict.fromkeys((".yaml", ".yml", ".toml", ".sh", ".tpl", "Containerfile", "Makefile"), _HASH),
    **dict.fromkeys((".js", ".css"), _SLASH),
    ".html": re.compile(r"\{#.*?#\}", re.DOTALL),
}
"""How comments look, by the end of a file's name."""

PROSE = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again, new",
    r"nobody": "no one",
    r"(?:is|are) (?-i:none)": "is not ...",
    r"not any more": "no longer",
    r"told": "reported",
    r"wish(es|ed)?": "spec, request",
    r"what came of": "result",
    r"(gives|makes|give|make) way": "yields, is replaced",
    r"lets? go\b(?! of)": "releases",
    r"puts? out": "evicts",
    r"looks? on": "view only",
    r"takes? part": "full control",
    r"the house|the rooms?": "architecture, packages",
}
"""In comments, docstrings and docs: whole words, any case."""
IDENTIFIERS = {
    **dict.fromkeys(("mend", "mends", "mended"), "fix"),
    **dict.fromkeys(("anew", "nobody", "told"), "a plain word"),
    **dict.fromkeys(("wish", "wishes"), "spec, request"),
    "deed": "action",
    "deeds": "actions",
    "wanted": "desired",
    "neighbours": "dependencies",
    "unanswered": "uncertain creates",
}
"""One word of an identifier: `refused_deed` has `refused` and `deed`."""

_PROSE = re.compile("|".join(rf"(?P<g{number}>\b(?:{text})\b)" for number, text in enumerate(PROSE)), re.IGNORECASE)
_ADVICE = tuple(PROSE.values())
_ANY = re.compile("|".join((*PROSE, *IDENTIFIERS)), re.IGNORECASE)
"""What a file without any of the words has not: most need no tokens."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Place(NamedTuple):
    """One word to leave behind."""

    file: str
    line: int
    word: str
    advice: str


def check_python(file: str, text: str) -> Iterator[Place]:
    """Identifiers, comments and docstrings of a module."""
    if not _ANY.search(text):
        return
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        for child in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            value = child.value if isinstance(child, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docstrings.add(value.lineno)  # also those below a constant or a field
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.NAME:
            for word in _WORD.findall(token.string):
                if advice := IDENTIFIERS.get(word.lower()):
                    yield Place(file, line, token.string, advice)
        elif token.type == tokenize.COMMENT or (token.type == tokenize.STRING and line in docstrings):
            yield from check_prose(file, token.string, line)


def check_comments(file: str, text: str, comment: re.Pattern[str]) -> Iterator[Place]:
    """Comments of what is not Python."""
    for found in comment.finditer(text):
        yield from check_prose(file, found[0], 1 + text.count("\n", 0, found.start()))


def check_code(path: Path) -> Iterator[Place]:
    """One file of source code, whatever its language; nothing of other files."""
    file = path.relative_to(ROOT).as_posix()
    program = b"" if path.suffix else path.read_bytes().partition(b"\n")[0]  # its first line names the interpreter
    comment = next((comment for end, comment in COMMENTS.items() if path.name.endswith(end)), None)
    if comment is not None or program.startswith(b"#!/bin/"):
        yield from check_comments(file, path.read_text(), comment or _HASH)
    elif path.suffix == ".py" or (program.startswith(b"#!") and b"python3" in program):
        yield from check_python(file, path.read_text())


def check_prose(file: str, text: str, first: int = 1) -> Iterator[Place]:
    """Sentences, whose first line has the number `first`."""
    for found in _PROSE.finditer(text):
        advice = _ADVICE[int((found.lastgroup or "g0")[1:])]
        yield Place(file, first + text.count("\n", 0, found.start()), found[0], advice)


def check_all() -> list[Place]:
    """Every place in the repository."""
    places: list[Place] = []
    for path in sorted(path for top in CODE for path in (ROOT / top).rglob("*")):
        if path.is_file() and path.name not in NOT_CHECKED:
            places += check_code(path)
    pages = [path for top in DOCS for path in ([ROOT / top] if top.endswith(".md") else (ROOT / top).rglob("*.md"))]
    for path in sorted(pages):
        if path.name not in NOT_CHECKED:
            places += check_prose(path.relative_to(ROOT).as_posix(), path.read_text())
    return places


def main() -> int:
    """Print every place."""
    places = check_all()
    for place in places:
        print(f"{place.file}:{place.line}: {place.word!r}: write {place.advice}")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
