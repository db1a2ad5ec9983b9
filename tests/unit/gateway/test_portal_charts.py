"""Trends of the overview and shares of the usage page; without a database nothing else is missing."""

import re
from datetime import timedelta

from unit.gateway.gateway_stage import NOW, a_past
from unit.gateway.portal_stage import ADMIN, PortalStage, text_of
from vdi.gateway.portal.history import shares
from vdi.gateway.store.history import RunRow

RUNS = [
    RunRow(uid="uid-0", start=NOW - timedelta(hours=3), gpus=2, queue_seconds=90.0, startup_seconds=2.5),
    RunRow(uid="uid-1", start=NOW - timedelta(hours=1), gpus=1, startup_seconds=3.5),
]


def test_shares_are_of_the_largest_and_the_rest_is_one() -> None:
    found = shares([(f"user{number}", float(number)) for number in range(13)])
    assert [share.name for share in found][:2] == ["user12", "user11"]
    assert (found[0].percent, found[1].label, len(found)) == (100.0, "11.0 h", 11)
    assert (found[-1].name, found[-1].label, found[-1].percent) == ("2 others", "3.0 h", 0.0)
    assert shares([(f"user{number}", 1.0) for number in range(11)])[-1].name == "1 other"
    assert shares([("nothing", 0.0)]) == []


async def test_the_overview_has_the_last_day_and_the_last_week() -> None:
    stage = PortalStage()
    for run in RUNS:
        stage.remember(a_past(run.uid), run)
    for path, heading, rows in (("/admin", "Last day", 24), ("/admin?period=week", "Last week", 28)):
        page = (await stage.browser(ADMIN).get(path)).text
        assert f'<h2 id="trends">{heading}</h2>' in page
        assert page.count('<th scope="row" data-label="From"') == rows
        assert "2 3" in text_of(page), "desktops and GPU slots"
    assert '<h2 id="trends">Last day</h2>' in (await stage.browser(ADMIN).get("/admin?period=<b>")).text


async def test_without_a_database_only_the_trends_are_missing() -> None:
    stage = PortalStage()
    stage.lose_history()
    answer = await stage.browser(ADMIN).get("/admin")
    assert answer.status_code == 200
    assert "The history cannot be read" in answer.text
    assert "Desktops, GPUs and waiting times" not in answer.text


async def test_usage_is_compared_by_user_and_by_template() -> None:
    stage = PortalStage()
    for user, template, hours in (("root", "blender", 3.0), ("root", "qgis", 1.0), ("b", "qgis", 1.0)):
        stage.use(f"{user}@example.com", hours, template)
    page = (await stage.browser(ADMIN).get("/history/usage?of=everyone")).text
    assert re.findall(r'<rect width="([\d.]+)"', page) == ["100.0", "25.0", "100.0", "66.7"]
    assert "Hours by user" in page
    mine = (await stage.browser(ADMIN).get("/history/usage")).text
    assert "Hours by user" not in mine
