"""Shares of the usage page."""

import re

from unit.gateway.portal_stage import ADMIN, PortalStage
from vdi.gateway.portal.history import shares


def test_shares_are_of_the_largest_and_the_rest_is_one() -> None:
    found = shares([(f"user{number}", float(number)) for number in range(13)])
    assert [share.name for share in found][:2] == ["user12", "user11"]
    assert (found[0].percent, found[1].label, len(found)) == (100.0, "11.0 h", 11)
    assert (found[-1].name, found[-1].label, found[-1].percent) == ("2 others", "3.0 h", 0.0)
    assert shares([(f"user{number}", 1.0) for number in range(11)])[-1].name == "1 other"
    assert shares([("nothing", 0.0)]) == []


async def test_usage_is_compared_by_user_and_by_template() -> None:
    stage = PortalStage()
    for user, template, hours in (("root", "blender", 3.0), ("root", "qgis", 1.0), ("b", "qgis", 1.0)):
        stage.use(f"{user}@example.com", hours, template)
    page = await stage.browser(ADMIN).html("/history/usage?of=everyone")
    assert re.findall(r'<rect width="([\d.]+)"', page) == ["100.0", "25.0", "100.0", "66.7"]
    assert "Hours by user" in page
    mine = await stage.browser(ADMIN).html("/history/usage")
    assert "Hours by user" not in mine
