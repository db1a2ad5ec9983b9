"""`vdi kasm values`, as it is typed: files in and out, and exit codes."""

import json
from pathlib import Path

import pytest
import yaml

from unit.cli.conftest import Vdi

HOST = "kasm.example.com"


def test_render_prints_values_that_check_takes(vdi: Vdi, tmp_path: Path) -> None:
    ran = vdi(
        "kasm", "values", "render", "--hostname", HOST, "--profile", "8gb", "--tls-secret", "tls"
    )
    assert (ran.code, ran.err) == (0, "")
    file = tmp_path / "values.yaml"
    file.write_text(ran.out)
    checked = vdi("kasm", "values", "check", str(file))
    assert checked.code == 0
    assert checked.out == "These values have no problems for chart kasm-helm 1.1190.6.\n"


def test_render_writes_a_new_file_and_never_over_an_old_one(vdi: Vdi, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    ran = vdi(
        "kasm", "values", "render", "--hostname", HOST, "--tls-secret", "tls", "-w", str(file)
    )
    assert (ran.code, ran.out) == (0, "")
    assert f"vdi kasm preflight -g C -f {file}" in ran.err
    assert yaml.safe_load(file.read_text())["publicAddr"] == HOST
    again = vdi(
        "kasm",
        "values",
        "render",
        "--hostname",
        "other.example.com",
        "--tls-secret",
        "tls",
        "-w",
        str(file),
    )
    assert again.code == 2
    assert f"{file} already exists" in again.err
    assert list(tmp_path.glob(".*yaml*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hostname", "https://x"], "--hostname is 'https://x'; allowed"),
        (
            ["--hostname", HOST, "-g", "D"],
            "'D' is not a generation of Kasm's chart; allowed: A (kasm-single-zone",
        ),
        (["--hostname", HOST, "--chart-version", "new"], "--chart-version: 'new' is not a version"),
        (
            ["--hostname", HOST, "--profile", "16gb"],
            "--profile is '16gb'; allowed: chart, 4gb, 8gb",
        ),
    ],
)
def test_answers_that_are_wrong_are_a_matter_of_usage(
    vdi: Vdi, words: list[str], said: str
) -> None:
    ran = vdi("kasm", "values", "render", *words)
    assert ran.code == 2
    assert said in ran.err


def test_check_ends_with_1_on_an_error_and_says_the_right_name(vdi: Vdi, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(f"global: {{hostname: {HOST}}}\n")
    ran = vdi("kasm", "values", "check", str(file))
    assert ran.code == 1
    assert "global.hostname is a value of generation A" in ran.out
    assert "  > Set publicAddr" in ran.out
    data = json.loads(vdi("kasm", "values", "check", str(file), "-o", "json").out)
    assert data["findings"][0]["remedy"] == {"sentence": "Set publicAddr", "commands": []}
    assert data["chart"] == "kasm-helm 1.1190.6"
    assert "global.hostname" not in vdi("kasm", "values", "check", str(file), "-g", "A").out


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("- a\n", 2, "is not a mapping"),
        ("a: [\n", 2, "is not a single YAML document in line"),
        ("a: 1\n---\nb: 1\n", 2, "is not a single YAML document"),
        (None, 3, "No such"),
    ],
)
def test_a_file_that_is_none_is_reported_as_such(
    vdi: Vdi, tmp_path: Path, text: str | None, code: int, said: str
) -> None:
    file = tmp_path / "values.yaml"
    if text is not None:
        file.write_text(text)
    ran = vdi("kasm", "values", "check", str(file))
    assert (ran.code, said in ran.err) == (code, True), ran.err
