"""docs/cli.md speaks of commands and options that exist."""

import re
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi
from unit.cli.test_cli_errors import COMMANDS

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_its_section_with_an_example_and_real_options(vdi: Vdi, command: list[str]) -> None:
    words = f"vdi {' '.join(command)}"
    (section,) = [section for section in SECTIONS if words in section.splitlines()[0]]
    assert f"$ {words}" in section
    known = vdi(*command, "--help").out
    lines = [line for line in section.splitlines() if line.startswith(f"$ {words}")]
    prose = re.findall(r"`(--[a-z-]+)", section)
    for option in [*prose, *re.findall(r" (--[a-z-]+)", " ".join(lines))]:
        assert option in known, f"{option} in the section of {words}"
