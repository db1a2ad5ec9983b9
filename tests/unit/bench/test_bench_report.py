from typing import Any

import pytest

from bench.report import goals, remarks, table


def a_run(
    name: str,
    *,
    p99: float = 10.0,
    writes: float = 7.0,
    reads: float = 0.0,
    others: float = 0.0,
    cpu: float = 1.0,
) -> dict[str, Any]:
    return {
        "name": name,
        "repeat": 1,
        "trickle": {"pod_created": {"p99_ms": p99}, "foreign_percent": others},
        "burst": {"operator_cpu_s": cpu},
        "api": {"trickle": {"writes_per_session": writes, "reads_per_session": reads}},
    }


def row(text: str, title: str) -> list[str]:
    line, *_ = [line for line in text.splitlines() if line.startswith(f"| {title} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_first_contender_is_compared_with_each_other_one() -> None:
    text = table(
        [
            a_run("vdi", writes=8),
            a_run("go", writes=7),
            a_run("floor", writes=8),
            a_run("vdi", writes=6),
        ]
    )
    assert [cell.strip() for cell in text.splitlines()[0].split("|")][2:-1] == [
        "vdi",
        "go",
        "floor",
        "vdi / go",
        "vdi / floor",
    ]
    assert row(text, "API writes, create -> Running") == ["7 [6..8]", "7", "8", "1.00", "0.88"]


def test_missing_measurement_is_a_dash() -> None:
    text = table([a_run("vdi"), {"name": "go", "repeat": 1, "error": "the operator ended"}])
    assert row(text, "API writes, create -> Running") == ["7", "-", "-"]
    assert row(text, "all sessions Running, s") == ["-", "-", "-"]


def test_goals_that_are_met() -> None:
    assert goals([a_run("vdi", p99=30), a_run("floor", p99=12)]) == [
        "met     7 API writes per start, at most 7",
        "met     0 API reads per start, none allowed",
        "met     create -> pod created p99 30 ms, floor 12 ms: under 50 ms of our own wanted",
    ]


def test_added_pod_latency_misses_the_goal() -> None:
    said = goals([a_run("vdi", p99=70), a_run("floor", p99=12)])
    assert [line.split()[0] for line in said] == ["met", "met", "MISSED"]


def test_one_bad_run_misses_the_goal_for_requests() -> None:
    said = goals([a_run("vdi"), a_run("vdi", writes=9, reads=1), a_run("floor")])
    assert [line.split()[0] for line in said] == ["MISSED", "MISSED", "met"]


@pytest.mark.parametrize(("cpu", "verdict"), [(1.05, "met     "), (1.06, "MISSED  ")])
def test_goal_is_relative_to_the_tuned_go_operator(cpu: float, verdict: str) -> None:
    *_, said = goals([a_run("vdi", cpu=cpu), a_run("go-same", cpu=1.0)])
    assert said == f"{verdict}operator CPU: {cpu:.2f} of go-same's, at most 1.05 wanted"


def test_goals_need_runs_of_our_own() -> None:
    assert goals([a_run("go"), a_run("floor")]) == []


def test_remarks_name_errors_and_disturbed_runs() -> None:
    assert remarks(
        [
            a_run("vdi", others=30),
            {"name": "go", "repeat": 1, "error": "gone"},
            a_run("floor", others=9),
        ]
    ) == [
        "disturbed: vdi, repeat 1, trickle: other programs used 30 % of the machine",
        "ERROR go, repeat 1: gone",
    ]
