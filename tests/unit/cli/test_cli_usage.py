"""`vdi usage` through a real gateway's API, and its tables."""

import json

import pytest

from unit.cli.conftest import Vdi
from unit.cli.test_remote_commands import remote
from vdi.cli.usage import By, idle_line, pool_table, usage_table

__all__ = ["remote"]

pytestmark = pytest.mark.timeout(120)

ROW = {
    "name": "cad",
    "hours": 10.0,
    "gpuHours": 20.0,
    "idleGpuHours": 4.25,
    "sessions": 2,
    "runs": 3,
    "homeGibMonths": 7.5,
    "cost": 1234.5,
}


def test_usage_of_a_month_is_asked_of_the_gateway(remote: Vdi) -> None:
    said = remote("usage", "--month", "2026-10")
    assert (said.code, said.out) == (0, "")
    assert said.err.splitlines() == [
        "no usage in 2026-10",
        "idle GPUs: 0.0 GPU hours of desktops, 0.0 of free places of pools",
    ]
    report = json.loads(remote("usage", "--month", "2026-10", "-o", "json").out)
    assert (report["month"], report["items"]) == ("2026-10", [])
    assert remote("usage", "--by", "template", "-o", "csv").out.startswith("template,month,sessions")


def test_what_cannot_be_asked_is_refused(remote: Vdi) -> None:
    refused = remote("usage", "--by", "group")
    assert refused.code == 2 and "--by: group goes with --everyone; allowed without it: user, template" in refused.err
    refused = remote("usage", "--month", "October")
    assert refused.code == 2 and "month" in refused.err
    refused = remote("usage", "--everyone")
    assert refused.code == 1 and "administrator" in refused.err


def test_without_a_gateway_it_says_where_to_log_in(vdi: Vdi) -> None:
    refused = vdi("usage")
    assert refused.code == 2 and "vdi login https://portal.vdi.example.com" in refused.err


def test_the_cost_is_a_column_only_where_there_are_prices() -> None:
    header, row = usage_table([ROW], By.TEMPLATE, "EUR")
    assert header.split("   ")[0] == "TEMPLATE" and header.endswith("COST")
    assert row.split() == ["cad", "10.0", "20.0", "4.2", "2", "3", "7.5", "1234.50", "EUR"]
    header, row = usage_table([ROW], By.TEMPLATE, "")
    assert "COST" not in header and row.split()[-1] == "7.5"
    pool = {"name": "kiosk", "template": "web", "placeHours": 3.0, "gpuHours": 0.0, "cost": 2.0}
    assert pool_table([pool], By.POOL, "EUR")[1].split() == ["kiosk", "web", "3.0", "0.0", "2.00", "EUR"]
    idle = {"desktopGpuHours": 4.25, "poolGpuHours": 1.0, "cost": 5.25}
    assert idle_line({"idle": idle, "currency": "EUR"}).endswith("1.0 of free places of pools, 5.25 EUR")
