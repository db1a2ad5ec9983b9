"""Every command of `vdi kasm` has an example in its help; what the pages docs/kasm*.md type exists."""

import re
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi

TEXT = "\n".join(page.read_text() for page in sorted((Path(__file__).parents[3] / "docs").glob("kasm*.md")))
COMMANDS = [["preflight"], ["validate"], ["diagnose"], ["install"], ["values", "render"], ["values", "check"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_description_and_an_example(vdi: Vdi, command: list[str]) -> None:
    ran = vdi("kasm", *command, "--help")
    assert ran.code == 0
    words = f"vdi kasm {' '.join(command)}"
    examples = ran.out.partition("Examples:")[2]
    assert f"{words} " in examples or f"{words}\n" in examples


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_guide_types_options_that_there_are(vdi: Vdi, command: list[str]) -> None:
    words = f"vdi kasm {' '.join(command)}"
    typed = [line for line in TEXT.splitlines() if re.search(rf"\b{words}(?: |$)", line) and line.startswith("$ ")]
    known = vdi("kasm", *command, "--help").out
    for option in re.findall(r" (--[a-z-]+)", " ".join(typed)):
        assert option in known, f"{option} of {words}"
