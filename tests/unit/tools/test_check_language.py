"""The language checker finds words in identifiers, comments, docstrings and pages, and leaves other strings alone."""

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
    ("name", "text", "lines"),
    [
        ("values.yaml", 'a: "#nobody" # nobody\n# told\nb: told\n', [1, 2]),
        ("wait.js", "const told = 1; // told\n/* begun\nanew */\n", [1, 3]),
        ("page.html", "<p>nobody</p>\n{# nobody\n#}\n", [2]),
        ("start", "#!/bin/sh\n# anew\necho anew\n", [2]),
        ("agent", '#!/opt/bin/python3 -I\n"""Mends."""\nprint("anew")\n', [2]),
        ("notes.txt", "# nobody\n", []),
    ],
)
def test_comments_of_every_language_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, lines: list[int]
) -> None:
    monkeypatch.setattr(check_language, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert [place.line for place in check_language.check_code(tmp_path / name)] == lines


def test_each_place_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    places = [check_language.Place("src/vdi/kube/x.py", 1, "mend", "fix")]
    monkeypatch.setattr(check_language, "check_all", lambda: places)
    assert check_language.main() == 1
    assert capsys.readouterr().out == "src/vdi/kube/x.py:1: 'mend': write fix\n"
    places.clear()
    assert check_language.main() == 0
