from typing import Any

import pytest

from bench.first_picture import main, verdicts


def test_goals_are_reported_by_the_median() -> None:
    figures = [{"way": "vdi", "picture_s": seconds} for seconds in (3.0, 3.9, 9.0)]
    figures += [{"way": "from a pool", "picture_s": seconds} for seconds in (0.5, 1.0, 1.1)]
    assert [line.split()[0] for line in verdicts(figures)] == ["met", "MISSED"]


def test_without_a_cluster_it_says_how_to_get_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("VDI_STATE", "VDI_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert main([]) == 3
    assert "make demo" in capsys.readouterr().err


def test_a_number_of_starts_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-n", "0"])
    assert "0: allowed: 1 or more" in capsys.readouterr().err
