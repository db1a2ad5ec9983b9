"""Helm's arguments for Kasm, and the message when it fails."""

from pathlib import Path

import pytest

from vdi.helm.arguments import Change, Place, Values
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.install import after_failure, source_of, version_in_folder
from vdi.kasm.values.render import merged


def test_chart_source_of_each_generation() -> None:
    assert source_of(B, None, "") == (
        "kasm",
        ("--repo", "https://helm.kasm.com", "--version", "1.1181.1"),
    )
    address = "oci://registry-1.docker.io/kasmweb/kasm-helm"
    assert source_of(C, (1, 1190, 5), "") == (address, ("--version", "1.1190.5"))
    with pytest.raises(match="--chart kasm-helm/kasm-single-zone"):
        source_of(A, None, "")


def test_named_chart_is_used_unchanged(tmp_path: Path) -> None:
    assert source_of(A, (1, 17, 0), str(tmp_path)) == (str(tmp_path), ())
    assert source_of(C, (1, 1190, 6), "oci://mirror/kasm-helm") == (
        "oci://mirror/kasm-helm",
        ("--version", "1.1190.6"),
    )


def test_chart_folder_has_the_version_of_its_chart(tmp_path: Path) -> None:
    """Not an option: the check of the database depends on it."""
    assert (
        version_in_folder("")
        == version_in_folder(str(tmp_path))
        == version_in_folder("oci://mirror/kasm-helm")
        == ""
    )
    (tmp_path / "Chart.yaml").write_text("name: kasm-helm\nversion: 1.1190.6\n")
    assert version_in_folder(str(tmp_path)) == "1.1190.6"
    (tmp_path / "Chart.yaml").write_text("name: kasm-helm\n")
    with pytest.raises(ValueError, match="has no version"):
        version_in_folder(str(tmp_path))


def test_a_failure_names_the_commands_that_explain_and_undo_it() -> None:
    change = Change("mine", "kasm-helm", Place("desks"), Values())
    assert "vdi kasm diagnose --namespace desks" in after_failure(change, was_there=False)
    assert "helm uninstall mine --namespace desks" in after_failure(change, was_there=False)
    assert "helm rollback mine --namespace desks" in after_failure(change, was_there=True)


def test_values_merge_as_helm_merges_them() -> None:
    one, two = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "d": {"e": 2}}
    assert merged(one, two) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
