"""The language checker finds words in identifiers, comments, docstrings and pages, and leaves other strings alone."""

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


def test_each_place_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    places = [check_language.Place("src/vdi/kube/x.py", 1, "mend", "fix")]
    monkeypatch.setattr(check_language, "check_all", lambda: places)
    assert check_language.main() == 1
    assert capsys.readouterr().out == "src/vdi/kube/x.py:1: 'mend': write fix\n"
    places.clear()
    assert check_language.main() == 0
