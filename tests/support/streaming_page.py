"""The table of docs/streaming.md: fields of `streaming`, and what each generation of Selkies gets
of them.
"""

import re
from pathlib import Path
from typing import Any

import yaml

_PAGE = (Path(__file__).parents[2] / "docs/streaming.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4]]
    for line in _PAGE.split("<!-- each row is a test")[1].split("\n\n")[0].splitlines()[3:]
]


def streams(row: list[str]) -> list[tuple[dict[str, Any], str]]:
    """The row's `streaming` for each generation, and its cell: variables, or `refused`."""
    fields = yaml.safe_load("{" + row[0].strip("`") + "}")
    return [
        ({**fields, "selkies": number}, cell) for number, cell in (("2", row[1]), ("1", row[2]))
    ]
