from bench.cluster import BINARIES
from tools.binaries import RECIPES


def test_every_program_of_a_burst_can_be_made() -> None:
    assert set(BINARIES) <= set(RECIPES)
