"""The report of `python -m bench.agent`; the gateway and the desktops are not measured here."""

import zlib
from typing import Any

import pytest

from bench.agent import ALONE, CROWD, REAL, a_png, main, summarize, table, verdicts


def figures(what: str, *milliseconds: float, cpu: float | None = None) -> dict[str, Any]:
    return summarize(what, [(each / 4000, 3 * each / 4000) for each in milliseconds], 2.0, cpu)


def test_summary_is_of_whole_turns() -> None:
    assert figures("20 agents at once", *map(float, range(1, 101)), cpu=1.0) == {
        "what": "20 agents at once",
        "turns": 100,
        "p50_ms": 50.0,
        "p95_ms": 95.0,
        "first_p50_ms": 12.5,
        "second_p50_ms": 37.5,
        "actions_per_second": 100.0,
        "gateway_ms_per_action": 5.0,
    }


@pytest.mark.parametrize(("milliseconds", "met"), [(100.0, True), (100.1, False)])
def test_aim_of_time_is_for_one_agent(milliseconds: float, met: bool) -> None:
    for what in (ALONE, REAL):
        said, _ = verdicts([figures(what, milliseconds), figures(CROWD, 900.0)])
        assert said.startswith("met") is met


@pytest.mark.parametrize(("turns", "met"), [(200, True), (199, False)])
def test_aim_of_actions_is_for_all_agents(turns: int, met: bool) -> None:
    [said] = verdicts([figures(CROWD, *[900.0] * turns)])
    assert said.startswith("met") is met


def test_what_is_not_measured_is_a_dash() -> None:
    [row] = [
        line
        for line in table([figures(REAL, 80.0)]).splitlines()
        if REAL in line and line.startswith("|")
    ]
    assert row.split("|")[-2].strip() == "-"


def test_picture_is_a_png_of_its_size() -> None:
    picture = a_png(1280, 720)
    assert picture[16:24] == (1280).to_bytes(4) + (720).to_bytes(4)
    data = picture[picture.index(b"IDAT") + 4 : picture.index(b"IEND") - 8]
    assert len(zlib.decompress(data)) == 720 * (1 + 3 * 1280)


@pytest.mark.parametrize("turns", ["0", "251"])
def test_number_of_turns_is_limited(turns: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-n", turns])
    assert f"{turns}: allowed: 1" in capsys.readouterr().err
