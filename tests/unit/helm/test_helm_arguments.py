"""The choice of helm, and its arguments by major version."""

import json
from pathlib import Path

import pytest

from vdi.helm.arguments import Change, Place, Values, take_back_fields, template, uninstall, upgrade
from vdi.helm.errors import HelmUnavailableError
from vdi.helm.run import Helm, find_helm, parse_version

HELM3, HELM4 = Helm(Path("/h3"), (3, 22, 0)), Helm(Path("/h4"), (4, 3, 1))
PLACE = Place("kasm", Path("/k"), "there")


def script(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\nprintf '%s' '{version}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("helm", "flag"), [(HELM3, "--atomic"), (HELM4, "--rollback-on-failure")])
def test_failed_upgrade_is_rolled_back_by_helm_3_and_4(helm: Helm, flag: str) -> None:
    words = upgrade(helm, Change("vdi", "charts/vdi", PLACE), seconds=600)
    assert words[:4] == ["upgrade", "--install", "vdi", "charts/vdi"]
    assert words[-1] == flag and words[-4:-1] == ["--wait", "--timeout", "600s"]
    assert words[6:10] == ["--kubeconfig", "/k", "--kube-context", "there"]


def test_values_that_are_kept_are_in_no_argument() -> None:
    values = Values({"password": "hush"}, (Path("a.yaml"), Path("b.yaml")), ("x.y=1",))
    change = Change("vdi", "c", PLACE, values)
    for words in (upgrade(HELM4, change, seconds=1), template(change, kubernetes="1.34.4")):
        text = " ".join(words)
        assert "hush" not in text
        assert "--values - --values a.yaml --values b.yaml --set x.y=1" in text
    assert values.stdin is not None and json.loads(values.stdin) == {"password": "hush"}
    assert Values().stdin is None and Values().arguments == []


def test_rendering_uses_lookups_and_kinds_of_the_cluster() -> None:
    words = template(
        Change("r", "c", PLACE), kubernetes="1.34.4", apis=("a/v1", "b/v2/Kind"), is_upgrade=True
    )
    assert words[-8:] == [
        *("--dry-run=server", "--kube-version", "1.34.4"),
        *("--api-versions", "a/v1", "--api-versions", "b/v2/Kind", "--is-upgrade"),
    ]


def test_rendering_without_a_cluster() -> None:
    assert "--dry-run=client" in template(
        Change("r", "c", PLACE), kubernetes="1.34.4", lookups=False
    )


def test_an_uninstall_waits_too() -> None:
    assert uninstall("r", Place("n"), seconds=0.2)[-3:] == ["--wait", "--timeout", "1s"]


def test_manual_changes_are_overwritten_by_helm_3_and_4() -> None:
    assert take_back_fields(HELM4, "ssa") == ("--force-conflicts",)
    assert take_back_fields(HELM4, "") == () == take_back_fields(HELM3, "ssa"), (
        "patches know no conflicts"
    )


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("v3.22.0", (3, 22, 0)),
        ("v4.3.1+gabc", (4, 3, 1)),
        ("3.14.0-rc.1", (3, 14, 0)),
        ("", None),
        ("Client: v2", None),
    ],
)
def test_versions(said: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(said) == version


def test_the_helm_that_is_named_or_the_one_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HELM_DRIVER", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    mine = script(tmp_path / "helm", "v4.0.0")
    assert find_helm() == Helm(mine, (4, 0, 0))
    other = script(tmp_path / "helm3", "v3.19.2")
    assert find_helm(other).major == 3


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("v2.17.0", "allowed: Helm 3 from 3.14 on, and Helm 4"),
        ("v3.13.9", "Helm 3.13.9"),
        ("hello", "does not report"),
    ],
)
def test_unusable_helm_is_refused(
    tmp_path: Path, version: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HELM_DRIVER", raising=False)
    with pytest.raises(HelmUnavailableError, match=said):
        find_helm(script(tmp_path / "helm", version))


def test_missing_helm_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELM_DRIVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HelmUnavailableError, match=r"helm is not in PATH.*--helm"):
        find_helm()
    with pytest.raises(HelmUnavailableError, match="is not a program"):
        find_helm(tmp_path / "nothing")
    monkeypatch.setenv("HELM_DRIVER", "sql")
    with pytest.raises(HelmUnavailableError, match="HELM_DRIVER is 'sql'"):
        find_helm()
