"""The arithmetic of docs/sizing.md, against sums made by hand; and what it stands on is what the
guides tell to set.
"""

import pytest

from tools.generate import node_fit
from tools.generate.chart_render import ROOT

DESKTOP = {"cpu": 250, "memory": 1024 * node_fit.MEBI}


def test_node_capacity_left_after_reservations() -> None:
    # 4 GB are 3814.7 MiB. Less 200 for eviction, 1536 reserved, 140 for K3s' pods, 992 of ours:
    # 946.7.
    left = node_fit.server(2, 4).left({"cpu": 450, "memory": 992 * node_fit.MEBI})
    assert (left["cpu"], left["memory"] // node_fit.MEBI) == (2000 - 200 - 200 - 450, 946)
    assert node_fit.fits(left, DESKTOP) == 0
    assert node_fit.fits(left, {"cpu": 250, "memory": 768 * node_fit.MEBI}) == 1


def test_the_scarcest_resource_limits_the_desktops() -> None:
    assert node_fit.fits({"cpu": 1000, "memory": 10 * 1024 * node_fit.MEBI}, DESKTOP) == 4
    assert node_fit.fits({"cpu": 9000, "memory": 3 * 1024 * node_fit.MEBI}, DESKTOP) == 3
    assert node_fit.fits({"cpu": -1, "memory": 10**12}, DESKTOP) == 0
    row = node_fit.Row(node_fit.agent(64, 512, shares=8), "w", {}, DESKTOP, DESKTOP)
    assert row.desktops == 8 and "GPU 8" in row.text()


@pytest.mark.parametrize("name", ["server", "agent"])
def test_guide_and_calculation_reserve_the_same(name: str) -> None:
    page = (ROOT / "docs/install.md").read_text()
    whole = {"server": node_fit.SERVER, "agent": node_fit.AGENT}[name]
    kube = whole["memory"] // node_fit.MEBI - 512
    assert (
        f"system-reserved=memory=512Mi\n  - kube-reserved=cpu={whole['cpu']}m,memory={kube}Mi\n"
        in page
    )
    assert page.count("eviction-hard=memory.available<200Mi,nodefs.available<5%") == 2
