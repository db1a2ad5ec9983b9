"""The dashboard is what its generator makes."""

from tools.generate import dashboard


def test_the_dashboard_is_up_to_date() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run: make generate"


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.build()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
