from pathlib import Path
from typing import Any

import pytest

from bench.command import COULD_NOT_LOOK
from bench.move import draining_since, is_running, main, table


def a_session(**status: Any) -> dict[str, Any]:
    return {"status": status}


def test_the_notice_begins_when_the_condition_says() -> None:
    condition = {"type": "Draining", "status": "True", "lastTransitionTime": "1970-01-01T00:01:00Z"}
    assert draining_since(a_session(conditions=[{"type": "Ready", "status": "True"}, condition])) == 60.0
    assert draining_since(a_session(conditions=[condition | {"status": "False"}])) is None
    assert draining_since({}) is None


def test_a_desktop_runs_when_its_session_names_a_node() -> None:
    assert is_running(a_session(phase="Running", nodeName="n1"))
    assert not is_running(a_session(phase="Running"))
    assert not is_running(a_session(phase="Creating", nodeName="n1"))


def test_the_table_has_the_median_and_the_slowest() -> None:
    moves = [{"drain_to_running_s": 60.0 + more, "notice_over_to_running_s": more} for more in (4.0, 9.0, 5.0)]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table({"moves": moves}).splitlines()]
    assert ["drain begins ->", "65.0", "69.0"] in rows
    assert ["notice is over ->", "5.0", "9.0"] in rows


def test_without_a_cluster_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VDI_STATE", str(tmp_path))
    assert main([]) == COULD_NOT_LOOK
    assert "sudo vdi demo up --nodes 3" in capsys.readouterr().err
