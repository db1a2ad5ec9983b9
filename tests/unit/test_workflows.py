"""The files of hosted CI: pinned, with few rights, and every target and script that they call is there."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdi.devcluster.images import GALLERY

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
VERSION = re.compile(r'^(?!CNI_PROTOCOL)[A-Z0-9_]+ ?= ?"v?\d+\.\d[^"]*"', re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z][a-z0-9.-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())
    return workflow


def commands(path: Path) -> Iterator[str]:
    """What the steps of a file run: of a workflow, of the hooks of pre-commit, of the devcontainer."""
    yield from re.findall(r'^\s*(?:- )?(?:run|entry|"postCreateCommand"): (.+)$', path.read_text(), re.MULTILINE)


def make_targets(command: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][a-z0-9.-]*)", command))


def scripts(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w./-])((?:tests|scripts|tools|images)/[\w./-]+)", command))


@by_name
def test_each_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


@by_name
def test_a_workflow_may_read_only_and_a_job_says_what_it_writes(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 360, name
        assert isinstance(job.get("permissions", {}), dict), "write-all is no list of rights"
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, name


@pytest.mark.parametrize(
    "path",
    [*WORKFLOWS, ROOT / ".pre-commit-config.yaml", ROOT / ".devcontainer/devcontainer.json"],
    ids=lambda p: p.name,
)
def test_each_target_and_script_that_is_called_is_there(path: Path) -> None:
    called = list(commands(path))
    assert called
    assert {target for command in called for target in make_targets(command)} <= TARGETS
    for script in {script for command in called for script in scripts(command)}:
        assert os.access(ROOT / script, os.X_OK), script


def test_the_nightly_suites_are_those_of_the_script() -> None:
    """`chaos-fast` is a cut of chaos."""
    allowed = re.search(r"allowed: ([a-z0-9 -]+)", (ROOT / "tests/run.sh").read_text())
    assert allowed
    suites = load(ROOT / ".github/workflows/nightly.yml")["jobs"]["suite"]["strategy"]["matrix"]["suite"]
    assert set(suites) == set(allowed[1].split()) - {"chaos-fast"}


def test_each_image_of_the_gallery_is_built_nightly() -> None:
    built = load(ROOT / ".github/workflows/nightly.yml")["jobs"]["gallery"]["strategy"]["matrix"]["image"]
    assert sorted(built) == sorted(GALLERY)


@pytest.mark.parametrize("file", ["src/vdi/devcluster/binaries/components.py", "tests/k3s/install"])
def test_renovate_finds_each_version_that_is_written_by_hand(file: str) -> None:
    pattern = re.search(r'matchStrings: \["(.+# renovate.+)"\]', (ROOT / "renovate.json5").read_text())
    assert pattern
    # JavaScript's spelling of a string and of a named group -> Python's.
    expression = pattern[1].replace('\\"', '"').replace("\\\\", "\\").replace("(?<", "(?P<")
    text = (ROOT / file).read_text()
    found = [match["currentValue"] for match in re.finditer(expression, text)]
    assert found
    assert len(found) == len(VERSION.findall(text))


def test_readme_has_the_commands_that_the_k3s_job_runs() -> None:
    sections = dict(
        re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    )
    on_k3s = re.findall(r"^\$ (.+)$", sections["On your K3s"], re.MULTILINE)
    here = re.findall(r"^\$ (.+)$", sections["Try it on this machine"], re.MULTILINE)
    assert (len(on_k3s), len(here)) == (3, 2)
    for command in (*on_k3s, *here):
        assert make_targets(command) <= TARGETS, command
        for script in scripts(command):
            assert (ROOT / script).exists(), script
