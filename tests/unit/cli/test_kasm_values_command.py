"""`vdi kasm values`, as it is typed: files in and out, exit codes, and no password on any screen."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from unit.cli.conftest import Vdi
from vdi.kasm.values.secret import ALPHABET, KEYS, LENGTH, secret_manifest

HOST = "kasm.example.com"


def test_render_prints_values_that_check_takes(vdi: Vdi, tmp_path: Path) -> None:
    ran = vdi("kasm", "values", "render", "--hostname", HOST, "--profile", "8gb", "--tls-secret", "tls")
    assert (ran.code, ran.err) == (0, "")
    file = tmp_path / "values.yaml"
    file.write_text(ran.out)
    checked = vdi("kasm", "values", "check", str(file))
    assert checked.code == 0
    assert checked.out == "These values have no problems for chart kasm-helm 1.1190.6.\n"


def test_render_writes_a_new_file_and_never_over_an_old_one(vdi: Vdi, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    ran = vdi("kasm", "values", "render", "--hostname", HOST, "--tls-secret", "tls", "-w", str(file))
    assert (ran.code, ran.out) == (0, "")
    assert f"vdi kasm preflight -g C -f {file}" in ran.err
    assert yaml.safe_load(file.read_text())["publicAddr"] == HOST
    again = vdi("kasm", "values", "render", "--hostname", "other.example.com", "--tls-secret", "tls", "-w", str(file))
    assert again.code == 2
    assert f"{file} already exists" in again.err
    assert list(tmp_path.glob(".*yaml*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hostname", "https://x"], "--hostname is 'https://x'; allowed"),
        (["--hostname", HOST, "-g", "D"], "'D' is not a generation of Kasm's chart; allowed: A (kasm-single-zone"),
        (["--hostname", HOST, "--chart-version", "new"], "--chart-version: 'new' is not a version"),
        (["--hostname", HOST, "--database-secret", "pg"], "--database-host is missing"),
    ],
)
def test_answers_that_are_wrong_are_a_matter_of_usage(vdi: Vdi, words: list[str], said: str) -> None:
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
        ("- a\n", 2, "has no values"),
        ("a: [\n", 2, "is not valid YAML"),
        ("a: 1\n---\nb: 1\n", 2, "is no"),
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


def test_migrate_prints_values_and_reports_beside_them(vdi: Vdi, tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"global: {{hostname: {HOST}}}\nkasmCerts: {{ingress: {{name: tls}}}}\n")
    ran = vdi("kasm", "values", "migrate", str(file), "--from", "A", "--to", "C")
    assert ran.code == 0
    assert yaml.safe_load(ran.out)["publicAddr"] == HOST
    assert "renamed   global.hostname" in ran.err
    file.write_text("global: {namespace: kasm}\n")
    data = vdi("kasm", "values", "migrate", str(file), "--from", "A", "--to", "B", "-o", "json")
    assert data.code == 1
    assert {note["path"]: note["fate"] for note in json.loads(data.out)["notes"]}[
        "global.namespace"
    ] == "needs a person"
    assert vdi("kasm", "values", "migrate", str(file), "--from", "C", "--to", "A").code == 2


def test_the_secret_is_a_private_file_with_all_five_and_shows_none(vdi: Vdi, tmp_path: Path) -> None:
    source, file = tmp_path / "mine.yaml", tmp_path / "secret.yaml"
    source.write_text("admin-password: hunter2\n")
    ran = vdi("kasm", "values", "secret", "-n", "desks", "--release", "k", "--from", str(source), "-w", str(file))
    assert ran.code == 0
    assert "hunter2" not in ran.out + ran.err
    manifest = yaml.safe_load(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert manifest["metadata"] | {"labels": 0} == {"name": "k-secrets", "namespace": "desks", "labels": 0}
    assert set(manifest["stringData"]) == set(KEYS)
    assert manifest["stringData"].pop("admin-password") == "hunter2"
    assert all(len(text) == LENGTH and set(text) <= set(ALPHABET) for text in manifest["stringData"].values())
    assert len(set(manifest["stringData"].values())) == 4


def test_passwords_are_not_shown_on_a_terminal(vdi: Vdi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    ran = vdi("kasm", "values", "secret")
    assert ran.code == 2
    assert "--write FILE" in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("given", [{"root-password": "hunter2"}, {"db-password": "hunter2 "}, {"db-password": 12345}])
def test_a_password_that_is_wrong_is_refused_without_being_reported(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="password") as error:
        secret_manifest("s", "n", given, lambda letters: letters[0])
    assert "hunter2" not in str(error.value)
    assert "12345" not in str(error.value)
