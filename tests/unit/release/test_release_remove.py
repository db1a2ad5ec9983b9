"""What an uninstall ends."""

from vdi.release.remove import pools_to_end


def test_pools_that_another_operator_fills_too_stay() -> None:
    names = ["ours", "theirs"]
    assert pools_to_end(names, own={"ours"}, others=False) == ("ours", "theirs"), "nobody is left to fill them"
    assert pools_to_end(names, own={"ours"}, others=True) == ("ours",)
