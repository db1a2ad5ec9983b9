"""What the installation knows without a cluster: the chart, its own keys, and what pods wait for."""

from pathlib import Path
from typing import Any

import pytest

from vdi.helm.place import Place
from vdi.helm.releases import Info, Revision
from vdi.kasm.errors import KasmRefusedError
from vdi.kasm.generations import A, B, C, Generation
from vdi.kasm.install.chart import merged, source_of, without_own_keys
from vdi.kasm.install.run import Running, passwords_secret, state_left, take_passwords
from vdi.kasm.install.waits import waits
from vdi.kasm.value_paths import set_at
from vdi.kasm.values.check import check_values
from vdi.kasm.values.rules import Code, Subject, deletes_database

A_DELETES: dict[str, Any] = {}
set_at(A_DELETES, A.paths["retention"], "Delete")
set_at(A_DELETES, A.paths["retention_enabled"], True)


def test_each_generation_s_chart_is_found_where_it_is_published() -> None:
    assert source_of(C, None, "") == (
        "oci://registry-1.docker.io/kasmweb/kasm-helm",
        ("--version", "1.1190.6"),
    )
    assert source_of(B, (1, 1181, 0), "") == (
        "kasm",
        ("--repo", "https://helm.kasm.com", "--version", "1.1181.0"),
    )
    with pytest.raises(KasmRefusedError, match="name its folder: --chart"):
        source_of(A, None, "")


def test_a_chart_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    assert source_of(C, (1, 1190, 5), str(tmp_path)) == (str(tmp_path), ())
    assert source_of(C, (1, 1190, 5), "oci://here/kasm") == ("oci://here/kasm", ("--version", "1.1190.5"))


def test_a_key_that_the_chart_itself_has_is_no_fault() -> None:
    values = {"publicAddr": "k.example.com", "brandNew": {"on": 1}, "free": {"any": 1}, "wrong": 1}
    found = check_values(Subject(C, C.newest, values))
    left = without_own_keys(found, {"brandNew": {"on": 0}, "free": {}})
    assert [each.object for each in left if each.code == Code.UNKNOWN_KEY] == ["wrong"]


def test_the_passwords_are_in_the_secret_that_the_values_name() -> None:
    """An installation beside an older volume is not refused for want of a Secret that it does not use."""
    assert passwords_secret(C, "one", {}) == "one-secrets"
    assert passwords_secret(C, "one", {"kasmSecrets": {"create": False, "name": "mine"}}) == "mine"
    assert passwords_secret(B, "one", {}) == B.secrets.format(release="one")


def test_values_merge_as_helm_merges_them() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}}, {"d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }


def a_pod(labels: dict[str, str], *states: tuple[str, str]) -> dict[str, Any]:
    statuses = [{"name": name, "state": {state: {}}} for name, state in states]
    return {"metadata": {"labels": labels}, "status": {"initContainerStatuses": statuses}}


def test_a_wait_is_shown_by_its_name_in_the_words_of_the_generation() -> None:
    """`Init:1/5` in both, and another wait in each."""
    pod_a = a_pod(
        {"app.kubernetes.io/name": "kasm-proxy"},
        ("kasm-api-is-ready", "terminated"),
        ("kasm-manager-is-ready", "running"),
        ("kasm-share-is-ready", "waiting"),
        ("kasm-guac-is-ready", "waiting"),
        ("rdp-gateway-is-ready", "waiting"),
    )
    pod_b = a_pod(
        {"app.kubernetes.io/component": "proxy"},
        ("kasm-proxy-data-perms", "terminated"),
        ("kasm-api-is-ready", "running"),
        ("kasm-manager-default-is-ready", "waiting"),
        ("kasm-guac-is-ready", "waiting"),
        ("kasm-rdp-gateway-is-ready", "waiting"),
    )
    assert [text for _, text in waits(A, [pod_a])] == [
        "  proxy: kasm-manager-is-ready waits until the manager responds (1 of 5 steps done)"
    ]
    assert [text for _, text in waits(B, [pod_b])] == [
        "  proxy: kasm-api-is-ready waits until the API responds (1 of 5 steps done)"
    ]


def test_pods_that_are_not_kasm_s_or_wait_for_nothing_are_not_shown() -> None:
    pods = [
        a_pod({"app": "other"}, ("x", "running")),
        a_pod({"app.kubernetes.io/component": "api"}, ("db-is-ready", "terminated")),
        a_pod({"app.kubernetes.io/component": "api"}, ("db-is-ready", "waiting")),
        {"metadata": {}},
    ]
    assert list(waits(C, pods)) == []


def test_hints_of_a_failed_installation_name_its_namespace() -> None:
    run = Running(None, None, None, "one", Place("desks"), 1.0)  # type: ignore[arg-type]
    assert state_left(run, []).endswith("Why: vdi kasm diagnose --namespace desks")


def test_a_killed_installation_is_removed_by_vdi_which_keeps_the_database_s_volume() -> None:
    run = Running(None, None, None, "one", Place("desks"), 1.0)  # type: ignore[arg-type]
    left = state_left(run, [Revision("one", "desks", 1, Info("pending-install"))])
    assert left.endswith("If no one is working on it: vdi kasm uninstall --namespace desks --release one")


@pytest.mark.parametrize(
    ("generation", "values", "deletes"),
    [
        (C, {}, True),
        (C, {"database": {"storage": {"retentionPolicy": {"whenDeleted": "Retain"}}}}, False),
        (C, {"database": {"standalone": True}}, False),
        (A, {}, False),
        (A, A_DELETES, True),
    ],
)
def test_when_the_database_s_volume_goes_with_its_statefulset(
    generation: Generation, values: dict[str, Any], *, deletes: bool
) -> None:
    assert deletes_database(Subject(generation, generation.newest, values)) is deletes


def test_the_command_that_takes_old_passwords_names_secret_and_namespace() -> None:
    command = take_passwords(A, Place("desks"), "kasm-secrets")
    assert command.startswith("(umask 077; kubectl --namespace desks get secret kasm-secrets -o go-template='{")
    assert command.count("base64decode") == len(A.new_passwords) == 6
