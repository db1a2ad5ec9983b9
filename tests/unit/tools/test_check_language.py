"""The language checker finds words in identifiers, comments, docstrings and pages, and leaves other strings alone."""

import json
from pathlib import Path

import pytest

from tools import check_language

MODULE = '''"""Mends what drifts."""

wanted_pods = 1  # made anew
LIMIT = 2
"""Nobody
knows, as told."""


def deed() -> str:
    return "nobody wanted this sentence"
'''


def test_words_are_found_with_their_lines() -> None:
    found = [(place.line, place.word) for place in check_language.check_python("src/vdi/kube/x.py", MODULE)]
    assert found == [(1, "Mends"), (3, "wanted_pods"), (3, "anew"), (5, "Nobody"), (6, "told"), (9, "deed")]


def test_words_inside_other_words_are_not_found() -> None:
    text = "canned recommended bystanders; let go of it"
    assert list(check_language.check_prose("docs/design/x.md", text)) == []


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("src/vdi/kube/x.py", "src/vdi/kube"),
        ("src/vdi/cli/session/x.py", "src/vdi/cli"),
        ("src/vdi/x.py", "src/vdi"),
        ("tests/unit/kube/x.py", "tests/unit"),
        ("docs/design/x.md", "docs/design"),
        ("CONTRIBUTING.md", "CONTRIBUTING.md"),
    ],
)
def test_places_are_counted_by_package(file: str, package: str) -> None:
    assert check_language.Place(file, 1, "mend", "").package == package


def test_more_than_the_budget_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    budget = tmp_path / "budget.json"
    monkeypatch.setattr(check_language, "BUDGET", budget)
    place = check_language.Place("src/vdi/kube/x.py", 1, "mend", "fix")
    monkeypatch.setattr(check_language, "check_all", lambda: [place, place])
    budget.write_text(json.dumps({"src/vdi/kube": 2}))
    assert check_language.main([]) == 0
    budget.write_text(json.dumps({"src/vdi/kube": 1}))
    assert check_language.main([]) == 1
    budget.write_text(json.dumps({"src/vdi/kube": 3}))
    assert check_language.main(["--lower"]) == 0
    assert json.loads(budget.read_text()) == {"src/vdi/kube": 2}
