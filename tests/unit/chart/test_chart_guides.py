"""All pages name pages, commands, options and values that exist."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.docs_blocks import PAGES
from tools.generate import chart
from tools.generate.chart_render import ROOT
from vdi.cli.main import NOUNS, load_noun

DOCS = ROOT / "docs"
# Words of this form that are no values of the chart: files, fields of a status, API groups, Kasm's
# values.
OTHERS = re.compile(
    r".*\.(md|py|yaml)|traefik\.io|queue\.(position|reason|earliestSlot|availableGpu|nodeRequestTime)|global\.kasm\w+"
)
VALUE = re.compile(r"`([a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+)(?:: [^`]*)?`")
SCRIPT = DOCS / "examples/homes.sh"


def named(page: Path) -> str:
    """A page, as a test is called."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page: its headings, as the forges make anchors of them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_has_a_target(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if not link.startswith("http"):
            target = page.parent / link if link else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


@cache
def command_of(noun: str) -> Any:
    """With all that is below it: Typer makes them from functions, which takes longer than to read a
    page.
    """
    return load_noun(noun)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "design"], ids=named
)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Blocks are parsed by `tests/unit/tools/test_docs_blocks.py`. Pages of docs/design name
    planned commands too.
    """
    for line in re.findall(r"`(vdi [a-z][^`]*)`", page.read_text()):
        noun, *words = re.split(r"[|,]|\.\.\.", line)[0].split()[1:]
        assert noun in NOUNS, line
        command = command_of(noun)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {
            option for param in command.params for option in (*param.opts, *param.secondary_opts)
        } | {"--help"}
        given = {word for word in words if word.startswith("-") and word != "-"}
        assert not words or not hasattr(command, "commands"), f"{line}: there is no such command"
        assert given <= known, f"{line}: allowed: {sorted(known)}"


@cache
def chart_values() -> Any:
    """Read once: that takes longer than to read a page."""
    return yaml.safe_load(chart.VALUES.read_text())


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_value_of_the_chart_exists(page: Path) -> None:
    """A word like `gateway.replicas`, if its first part is a value of the chart."""
    values = chart_values()
    free = {"templates", "pools", "limits"}
    for word in VALUE.findall(page.read_text()):
        if OTHERS.fullmatch(word):
            continue
        place: Any = values
        path = word.split(".")
        if path[0] not in values or path[0] == "resources":  # a template has some too
            continue
        for part in path:
            if not isinstance(place, dict) or not place or part in free:
                break
            assert part in place, f"{word}: allowed: {sorted(place)}"
            place = place[part]


def test_homes_script_parses_and_has_help() -> None:
    assert subprocess.run(["sh", "-n", SCRIPT], check=False).returncode == 0
    said = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert (
        said.returncode == 2 and "homes.sh save FOLDER" in said.stderr and "TIMEOUT" in said.stderr
    )
