"""Hosted CI: actions are pinned by commit, and a job has only the rights that it lists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@by_name
def test_each_action_is_pinned_by_commit(path: Path) -> None:
    used = [
        line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line
    ]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


@by_name
def test_a_workflow_only_reads_unless_a_job_lists_a_right(path: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        assert isinstance(job.get("permissions", {}), dict), "write-all is no list of rights"
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, name
