"""docs/design/attacks-and-faults.md is true: each test that it names exists, each attack to be
tried has a row.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "design" / "attacks-and-faults.md"
# What has to be refused before this way in may be shown to anybody.
ATTACKS = (
    "token of another session", "other host", "expired", "not yet valid", "wrong algorithm", "none", "tampered",
    "replayed ticket", "stolen cookie on another host", "forged X-Forwarded-*", "path tricks", "header smuggling",
    "open redirect", "CSRF on every form", "XSS in every name a user controls", "session fixation",
    "user enumeration", "login flood", "oversize bodies", "slow clients",
)  # fmt: skip


def rows() -> dict[str, tuple[str, list[str]]]:
    """Of all tables: attack -> what happens, tests."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| attack")):
            attack, happens, tests = (cell.strip() for cell in line.strip("|").split(" | "))
            assert attack not in found, f"{attack!r} has two rows"
            found[attack] = happens, re.findall(r"`([^`]*)`", tests)
    return found


@cache
def functions(path: str) -> frozenset[str]:
    """Names of the test functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_has_a_row(attack: str) -> None:
    happens, tests = rows()[attack]
    assert happens
    assert tests


@pytest.mark.parametrize("attack", rows())
def test_each_test_that_is_named_exists(attack: str) -> None:
    _, tests = rows()[attack]
    assert tests, "a row without a test is a claim"
    for test in tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert name.startswith("test_"), test
        assert name in functions(path), test


def test_pages_that_it_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text())
    assert links
    for link in links:
        assert (PAGE.parent / link).is_file(), link
