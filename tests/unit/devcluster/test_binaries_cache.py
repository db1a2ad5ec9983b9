"""The cache: complete entries only, made once, by one process or thread at a time."""

import threading
from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import build_cache_in, leftovers
from vdi.devcluster.build_cache import SourceFailed, default_cache
from vdi.devcluster.progress import Cancelled, Step


def test_entry_is_made_once_for_many_threads(tmp_path: Path) -> None:
    made: list[Path] = []

    def fetch(step: Step, into: Path) -> None:
        made.append(into)
        (into / "tool").write_text("tool")

    with build_cache_in(tmp_path) as (build_cache, _):
        jobs = [lambda: build_cache.obtain("tool-v1", "make tool", fetch)] * 4
        assert set(build_cache.progress.side_by_side(jobs)) == {
            tmp_path / "cache" / "tool-v1-amd64"
        }
    assert len(made) == 1


@pytest.mark.parametrize("error", [SourceFailed("no"), KeyboardInterrupt(), Cancelled()])
def test_failure_while_making_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fetch(step: Step, into: Path) -> None:
        (into / "half").write_text("")
        raise error

    with build_cache_in(tmp_path) as (build_cache, _), pytest.raises(type(error)):
        build_cache.obtain("tool-v1", "make tool", fetch)
    assert leftovers(tmp_path) == []


def test_what_a_killed_process_left_is_thrown_away(tmp_path: Path) -> None:
    stale = tmp_path / "cache" / "unfinished" / "tool-v1-amd64" / "half"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    with build_cache_in(tmp_path) as (build_cache, _):
        entry = build_cache.obtain(
            "tool-v1", "make tool", lambda step, into: (into / "tool").touch()
        )
    assert [path.name for path in entry.iterdir()] == ["tool"]


def test_giving_up_ends_the_wait_for_another_process(tmp_path: Path) -> None:
    with build_cache_in(tmp_path) as (build_cache, _), build_cache.lock("busy"):
        waiter = threading.Thread(target=lambda: outcome.append(wait_for_lock()))
        outcome: list[str] = []

        def wait_for_lock() -> str:
            try:
                with build_cache.lock("busy"):
                    return "got it"
            except Cancelled:
                return "gave up"

        waiter.start()
        build_cache.progress.cancel()
        waiter.join(5)
        assert outcome == ["gave up"]


def test_cache_folder_follows_the_variables() -> None:
    assert default_cache({"VDI_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert default_cache({"XDG_CACHE_HOME": "/b"}) == Path("/b/vdi")
    assert default_cache({}) == Path.home() / ".cache" / "vdi"
