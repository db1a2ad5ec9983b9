"""The file of raw rows that each benchmark writes with `--json`."""

import json
from pathlib import Path

from bench.rows import write_rows


def test_rows_are_kept_with_command_date_and_machine(tmp_path: Path) -> None:
    write_rows(tmp_path / "results/edge.json", [{"p50_ms": 1.5}])
    record = json.loads((tmp_path / "results/edge.json").read_text())
    assert record["figures"] == [{"p50_ms": 1.5}]
    assert record["command"].startswith("python ") and record["date"].endswith("Z")
    assert record["machine"]["cpus"] > 0 and record["machine"]["memory_mib"] > 256


def test_no_file_is_written_unless_asked(tmp_path: Path) -> None:
    write_rows(None, [])
    assert not list(tmp_path.iterdir())
