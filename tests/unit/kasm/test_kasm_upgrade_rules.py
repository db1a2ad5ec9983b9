"""The upgrade that would lose the database is refused, with what to set; those that would not are let through."""

from typing import Any

import pytest

from vdi.helm.place import Place
from vdi.kasm.generations import A, B, C, Generation
from vdi.kasm.generations.upgrades import Database, Side, Upgrade, notes, refusals
from vdi.kasm.install.chart import merged

CARRIED = {"dbManagement": {"initialize": False, "upgrade": {"enable": True}}}


def side(generation: Generation, version: tuple[int, ...], app: str, values: dict[str, Any] | None = None) -> Side:
    return Side(generation, version, app, values or {})


def upgrade(before: Side, after: Side, *databases: Database) -> Upgrade:
    return Upgrade("kasm", Place("desks", context="lab"), before, after, databases)


OLD = side(C, (1, 1190, 6), "1.19.0")
NEW = side(C, (1, 1191, 0), "1.19.1")
KEPT = Database("kasm-db-1-19-0", "Retain")
DOOMED = Database("kasm-db-1-19-0", "Delete")


def test_another_kasm_with_initialize_left_on_would_erase_the_database() -> None:
    (problem,) = refusals(upgrade(OLD, NEW, KEPT))
    assert "would erase the database: StatefulSet kasm-db-1-19-0 is replaced (Kasm 1.19.0 -> 1.19.1)" in problem
    assert "dbManagement.initialize: false and dbManagement.upgrade.enable: true" in problem


@pytest.mark.parametrize(
    "values",
    [
        {"dbManagement": {"initialize": False}},
        {"dbManagement": {"upgrade": {"enable": True}}},
        {"dbManagement": {"initialize": None, "upgrade": {"enable": True}}},
        {"dbManagement": {"initialize": True, "upgrade": {"enable": True}}},
    ],
)
def test_half_of_what_has_to_be_set_is_not_enough(values: dict[str, Any]) -> None:
    assert refusals(upgrade(OLD, side(C, (1, 1191, 0), "1.19.1", values), KEPT))


def test_carried_over_and_kept_is_let_through() -> None:
    assert refusals(upgrade(OLD, side(C, (1, 1191, 0), "1.19.1", CARRIED), KEPT)) == ()


def test_a_volume_that_would_go_with_its_statefulset_is_kept_by_a_patch_and_not_by_values() -> None:
    values = merged(CARRIED, {"database": {"storage": {"retentionPolicy": {"whenDeleted": "Retain"}}}})
    (problem,) = refusals(upgrade(OLD, side(C, (1, 1191, 0), "1.19.1", values), DOOMED))
    assert "kubectl --namespace desks --context lab patch statefulset kasm-db-1-19-0 --type merge" in problem
    assert '"whenDeleted":"Retain"' in problem


def test_the_same_kasm_keeps_its_statefulset() -> None:
    same = upgrade(OLD, side(C, (1, 1190, 7), "1.19.0"), DOOMED)
    assert refusals(same) == ()
    assert "may never end" in notes(same)[0]


def test_an_external_database_is_left_alone() -> None:
    external = {"database": {"standalone": True, "hostname": "pg"}}
    both = upgrade(side(B, (1, 1181, 0), "1.18.1", external), side(C, (1, 1190, 6), "1.19.0", external))
    assert refusals(both) == ()
    assert "must be PostgreSQL 16 now (it was 14)" in notes(both)[0]


def test_a_database_that_moves_out_keeps_its_volume() -> None:
    external = {"database": {"standalone": True, "hostname": "pg"}}
    (problem,) = refusals(upgrade(OLD, side(C, (1, 1190, 6), "1.19.0", external), DOOMED))
    assert "would be deleted with it" in problem


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (A, C, "from kasm-single-zone 1.17.0 there is no direct way to kasm-helm 1.1190.6: upgrade to kasm"),
        (C, B, "it cannot be downgraded to kasm 1.1181.1"),
        (B, A, "it cannot be downgraded to kasm-single-zone 1.17.0"),
    ],
)
def test_generations_follow_each_other(before: Generation, after: Generation, words: str) -> None:
    problems = refusals(upgrade(side(before, before.newest, "1"), side(after, after.newest, "2"), KEPT))
    assert len(problems) == 1
    assert words in problems[0]


def test_an_older_chart_is_refused() -> None:
    (problem,) = refusals(upgrade(NEW, OLD, Database("kasm-db-1-19-1", "Retain")))
    assert "the database cannot be downgraded" in problem


@pytest.mark.parametrize(("before", "after"), [(A, B), (B, C)])
def test_the_next_generation_counts_as_another_kasm(before: Generation, after: Generation) -> None:
    old = side(before, before.newest, "1.17.0")
    assert "would erase" in refusals(upgrade(old, side(after, after.newest, "1.18.1"), KEPT))[0]
    assert refusals(upgrade(old, side(after, after.newest, "1.18.1", CARRIED), KEPT)) == ()
