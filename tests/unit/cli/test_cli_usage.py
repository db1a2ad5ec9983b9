"""`vdi usage` through a real gateway's API, and its tables."""

import json

import pytest

from unit.cli.conftest import Vdi
from unit.cli.test_remote_commands import remote
from vdi.cli.login import By, usage_table

__all__ = ["remote"]

pytestmark = pytest.mark.timeout(120)


def test_usage_of_a_month_is_asked_of_the_gateway(remote: Vdi) -> None:
    said = remote("usage", "--month", "2026-10")
    assert (said.code, said.out) == (0, "")
    assert said.err == "no usage in 2026-10\n"
    report = json.loads(remote("usage", "--month", "2026-10", "-o", "json").out)
    assert (report["month"], report["users"]) == ("2026-10", [])
    assert remote("usage", "--by", "template", "-o", "csv").out.startswith("template,month,sessions")


def test_what_cannot_be_asked_is_refused(remote: Vdi) -> None:
    refused = remote("usage", "--month", "October")
    assert refused.code == 2 and "month" in refused.err
    refused = remote("usage", "--everyone")
    assert refused.code == 1 and "administrator" in refused.err


def test_without_a_gateway_it_says_where_to_log_in(vdi: Vdi) -> None:
    refused = vdi("usage")
    assert refused.code == 2 and "vdi login https://portal.DOMAIN" in refused.err


def test_a_template_is_a_row() -> None:
    row = {"name": "cad", "hours": 10.0, "gpuHours": 20.0, "agentHours": 1.25, "sessions": 2, "runs": 3}
    header, line = usage_table([row], By.TEMPLATE)
    assert header.split("   ")[0] == "TEMPLATE"
    assert line.split() == ["cad", "10.0", "20.0", "1.2", "2", "3"]
