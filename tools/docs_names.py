"""Names of our code in the documentation that the code does not have.

In backticks: paths of files, members of classes, on pages for developers all names with an underscore. There and in
blocks of code: `package.module.name`. A word that stands in any file outside the documentation is alive, also one that
is not ours.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "tools", "bench", "charts", "images", "manifests", "docs", ".github")
NOT_CHECKED = ("docs/design/renames.md", "docs/design/api-freeze.md", "docs/design/language.md", "CHANGELOG.md")
"""They name what is no longer there."""
FOR_DEVELOPERS = ("docs/design/", "CONTRIBUTING.md")
"""Other pages name what is not ours, such as options of NFS, with an underscore too."""
_TEXTS = (".py", ".yaml", ".yml", ".json", ".tpl", ".html", ".js", ".css", ".go", ".sh", ".toml", "")
_WORD = re.compile(r"\w+")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PATH = re.compile(r"[\w./-]+\.(?:py|tpl|html|js|go)|(?:src|tests|tools|bench|charts|images|docs)/[\w./-]+\.\w+")
_NAME = re.compile(r"(?:[A-Z]\w*\.)?(_?[a-z][a-z0-9]*(?:_[a-z0-9]+)+)")
_MEMBER = re.compile(r"[A-Z]\w*\.(_?[a-z][a-z0-9]*(?:_[a-z0-9]+)+)")
_DOTTED = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/-])")


@dataclass(frozen=True, slots=True)
class Code:
    """What the repository has."""

    files: frozenset[str]
    """Paths, and the shorter ends of each."""
    words: frozenset[str]
    """Of every file but the documentation."""
    dotted: frozenset[str]
    """Of every file but the documentation: names of other people, such as hosts and API groups, are among them."""
    modules: Mapping[str, frozenset[str]]
    """The words of each module of `vdi`, by its name and by the shorter ends of it that have two parts or more."""
    packages: frozenset[str]


@cache
def read_code() -> Code:
    """Read the repository."""
    files, words, dotted, packages = set[str](), set[str](), set[str](), set[str]()
    modules: dict[str, set[str]] = defaultdict(set)
    paths = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    for path in paths:
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        place = path.relative_to(ROOT)
        files.update("/".join(place.parts[start:]) for start in range(len(place.parts)))
        if place.parts[0] == "docs" or path.suffix not in _TEXTS:
            continue
        text = path.read_text(errors="replace")
        here = set(_WORD.findall(text))
        words |= here | {place.stem}
        dotted.update(_DOTTED.findall(text))
        if place.parts[0] == "src" and path.suffix == ".py":
            parts = place.with_suffix("").parts[1:]
            if parts[-1] == "__init__":
                packages.add(".".join(parts[:-1]))
                continue
            for start in range(len(parts) - 1):
                modules[".".join(parts[start:])] |= here
    return Code(
        files=frozenset(files),
        words=frozenset(words),
        dotted=frozenset(dotted),
        modules={name: frozenset(found) for name, found in modules.items()},
        packages=frozenset(packages),
    )


def dead_names(page: str, text: str, code: Code) -> Iterator[tuple[int, str]]:
    """The number of the line, and the name, of each that the code does not have."""
    member = _NAME if page.startswith(FOR_DEVELOPERS) else _MEMBER
    is_block = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_block = not is_block
        spans = [] if is_block else _SPAN.findall(line)
        for span in spans:
            if _is_dead(span.removesuffix("()"), member, code):
                yield number, span
        for dotted in [line] if is_block else spans:
            yield from ((number, name) for name in _DOTTED.findall(dotted) if _is_dead_in_module(name, code))


def _is_dead(span: str, member: re.Pattern[str], code: Code) -> bool:
    if _PATH.fullmatch(span):
        return span not in code.files
    name = member.fullmatch(span)
    return name is not None and name[1] not in code.words


def _is_dead_in_module(name: str, code: Code) -> bool:
    if name in code.dotted or name in code.modules or name in code.packages:
        return False
    parts = name.split(".")
    for end in range(len(parts) - 1, 1, -1):
        known = code.modules.get(".".join(parts[:end]))
        if known is not None:
            return parts[end] not in known
    package = ".".join(parts[:2])
    return package in code.packages and ".".join(parts[:-1]) in code.packages and parts[-1] not in code.words
