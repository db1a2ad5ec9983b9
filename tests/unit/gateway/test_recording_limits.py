"""Limits of recordings: a desktop that sends more than a recorder makes, or nothing, loses its
picture; others go on.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from unit.gateway.files_agent import files_agent
from unit.gateway.portal_stage import BOB, PortalStage, a_template, running
from unit.gateway.test_recordings import RUN, RecordedStage
from unit.images.recording_selkies import recorded_desktop
from vdi.api.session import VDISession
from vdi.gateway.desktop import recording_limits, recording_storage
from vdi.gateway.desktop.recording_limits import EXCESS, FULL, NO_STORAGE, SILENT
from vdi.gateway.desktop.recording_storage import RecordingFolder
from vdi.gateway.store.recordings import recordings
from vdi.session.naming import RECORDING_REFUSED
from vdi.session.recording import longest_pause, recording_rate, refuse_picture

AT_ONCE, BURST, RECORDING_BYTES, RATE = 120, 680, 10, 10  # bytes; a second for the last


pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedStage]:
    monkeypatch.setattr(recording_limits, "AT_ONCE", AT_ONCE)
    monkeypatch.setattr(recording_limits, "BURST", BURST)
    monkeypatch.setattr(recording_limits, "RECORDING_BYTES", RECORDING_BYTES)
    monkeypatch.setattr(recording_limits, "recording_rate", lambda _template: RATE)
    for folder in ("recordings", "run"):
        (tmp_path / folder).mkdir()
    with recorded_desktop(tmp_path / "run") as desktop:
        stage = RecordedStage(str(tmp_path / "recordings"), desktop)
        stage.clock.wall += timedelta(seconds=1)
        ready = {"readyTime": stage.clock.wall.isoformat().replace("+00:00", "Z")}
        stage.put(
            running(status=RUN | ready), running("bob-desktop", user=BOB.email, status=RUN | ready)
        )
        with files_agent(stage, tmp_path, recordings=desktop.recordings):
            yield stage


class LyingAgent:
    """In the place of the desktop's agent: endless recording, `size` bytes at a time, of one
    recording or many.
    """

    def __init__(self, stage: RecordedStage, size: int, *, many: bool = False) -> None:
        self.recording, self.offset, self.size, self.many = 1, 0, size, many
        stage.desktop.recordings.fetch = self.fetch

    def fetch(self, _number: int, _stored: int) -> tuple[bytes, dict[str, str]]:
        headers = {
            "X-VDI-Recording": self.recording,
            "X-VDI-Offset": self.offset,
            "X-VDI-Seconds": 1e6,
        }
        self.recording, self.offset = (
            (self.recording + 1, 0) if self.many else (self.recording, self.offset + self.size)
        )
        return bytes(self.size), {name: str(value) for name, value in headers.items()}


async def fetch_until_refused(stage: RecordedStage, why: str, rounds: int = 100) -> int:
    """Rounds until the desktop is refused for this reason."""
    for number in range(rounds):
        try:
            await stage.fetch()
        except ValueError as error:
            assert str(error) == why
            return number
    raise AssertionError(f"never refused in {rounds} rounds")


async def others_refusal(stage: RecordedStage) -> str:
    session = stage.world.session("bob-desktop")
    assert session
    return await stage.services.recordings._limits.refuse(session)


def stored(stage: RecordedStage) -> int:
    return sum(file.stat().st_size for file in stage.folder.iterdir())


@pytest.mark.parametrize(("many", "size"), [(False, 10), (True, 1)])
async def test_more_than_a_recorder_makes_closes_that_desktop_alone(
    stage: RecordedStage, many: bool, size: int
) -> None:
    LyingAgent(stage, size, many=many)
    rounds = await fetch_until_refused(stage, EXCESS)
    assert rounds <= 13  # 26 seconds
    assert stored(stage) <= AT_ONCE + RATE * 2 * rounds + 8 * size
    assert len(list(stage.folder.iterdir())) <= (AT_ONCE + RATE * 2 * rounds) // RECORDING_BYTES + 8
    assert EXCESS in refuse_picture(stage.session)
    assert await others_refusal(stage) == ""
    assert stage.audited("recording.refuse") == [("limits", "alice-desktop", "done")]


async def test_recording_at_the_recorders_rate_goes_on(stage: RecordedStage) -> None:
    for _ in range(60):  # 1200 bytes: one and a half of what may ever come at once
        await stage.fetch(b"x" * RATE * 2)
    assert refuse_picture(stage.session) == ""


async def test_recording_that_waited_for_the_gateway_is_fetched(stage: RecordedStage) -> None:
    await stage.fetch(b"begin")
    await stage.fetch()
    for seconds, waiting in ((BURST / RATE, BURST - 20), (1e5, BURST - 20)):
        stage.clock.wall += timedelta(seconds=seconds)
        await stage.fetch(b"x" * waiting)
        await stage.fetch()
        assert refuse_picture(stage.session) == ""


async def test_refused_desktop_is_shown_again_after_a_while(stage: RecordedStage) -> None:
    LyingAgent(stage, 10)
    await fetch_until_refused(stage, EXCESS)
    assert await fetch_until_refused(stage, EXCESS) == 0
    stage.clock.wall += timedelta(seconds=BURST / RATE)
    LyingAgent(stage, 1)
    await stage.fetch()
    assert refuse_picture(stage.session) == ""
    assert RECORDING_REFUSED not in stage.session.metadata.annotations


async def test_replicas_share_the_budget(stage: RecordedStage) -> None:
    LyingAgent(stage, 10)
    await fetch_until_refused(stage, EXCESS)
    async with PortalStage(settings=stage.settings, **stage.shares) as other:
        other.clock.wall = stage.clock.wall
        assert await other.services.recordings._limits.refuse(stage.session) == EXCESS


async def test_agent_that_reports_a_recording_and_sends_none_is_refused(
    stage: RecordedStage,
) -> None:
    stage.desktop.recordings.fetch = lambda _number, _stored: (b"", {})
    await stage.fetch()
    assert refuse_picture(stage.session) == ""
    stage.clock.wall += timedelta(seconds=25)
    await stage.fetch()
    assert SILENT in refuse_picture(stage.session)
    LyingAgent(stage, 1)
    await stage.fetch()
    assert refuse_picture(stage.session) == ""


async def test_desktop_whose_recording_cannot_be_stored_is_shown_for_5_minutes(
    stage: RecordedStage,
) -> None:
    await stage.fetch(b"begin")
    (file,) = stage.folder.iterdir()
    file.unlink()
    stage.folder.rmdir()
    for minutes, why in ((4, ""), (2, SILENT)):
        stage.clock.wall += timedelta(minutes=minutes)
        with pytest.raises(OSError, match="No such file"):
            await stage.fetch(b"more")
        assert why in refuse_picture(stage.session)
        assert bool(refuse_picture(stage.session)) is bool(why)


async def test_trouble_with_the_storage_ends_with_its_desktop(stage: RecordedStage) -> None:
    async def troubles() -> list[str]:
        return [
            line
            for line in await stage.services.recordings.external_problems()
            if "recordings" in line
        ]

    await stage.fetch(b"begin")
    assert await troubles() == []
    stage.folder.rename(stage.folder.with_name("away"))
    for end in ("stored", "gone"):
        with pytest.raises(OSError, match="No such file"):
            await stage.fetch(b"more")
        assert await troubles() == ["recordings: No such file or directory"]
        if end == "stored":
            stage.folder.with_name("away").rename(stage.folder)
            await stage.fetch()
            stage.folder.rename(stage.folder.with_name("away"))
        else:
            stage.put(running(status=RUN | {"phase": "Suspended"}))
        assert await troubles() == []


async def test_recording_that_a_fault_of_ours_does_not_store_is_silent(
    stage: RecordedStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_session: VDISession) -> bool:
        raise TypeError("a fault")

    await stage.fetch(b"begin")
    monkeypatch.setattr(stage.services.recordings, "_fetch_piece", fail)
    stage.clock.wall += timedelta(minutes=6)
    with pytest.raises(TypeError, match="a fault"):
        await stage.fetch(b"more")
    assert SILENT in refuse_picture(stage.session)


async def test_recording_on_demand_may_be_silent(stage: RecordedStage) -> None:
    stage.put(running(status={"recording": {"mode": "OnDemand", "state": "Off"}}))
    stage.desktop.recordings.fetch = lambda _number, _stored: (b"", {})
    stage.clock.wall += timedelta(minutes=10)
    await stage.fetch()
    assert RECORDING_REFUSED not in stage.session.metadata.annotations


async def test_who_takes_most_of_the_space_is_refused_first(
    stage: RecordedStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def space(_self: RecordingFolder) -> int:
        return 600 - stored(stage)

    monkeypatch.setattr(RecordingFolder, "space", space)
    LyingAgent(stage, 2)
    await fetch_until_refused(stage, FULL)
    assert 250 <= stored(stage) <= 350
    assert FULL in refuse_picture(stage.session)
    assert await others_refusal(stage) == ""
    stage.clock.wall += timedelta(days=1)
    await stage.services.recordings.fetch(stage.session)
    assert FULL not in refuse_picture(stage.session)


async def test_quota_counts_all_recordings(stage: RecordedStage) -> None:
    limits = stage.services.recordings._limits
    limits.context = replace(
        limits.context, settings=replace(limits.context.settings, recordings_quota=500)
    )
    LyingAgent(stage, 2)
    await fetch_until_refused(stage, FULL)
    assert stored(stage) <= 300


async def test_recordings_claim_no_more_time_than_has_passed(stage: RecordedStage) -> None:
    LyingAgent(stage, 1, many=True)
    await fetch_until_refused(stage, EXCESS)
    run = timedelta(seconds=sum(row.seconds for row in stage.rows.rows(recordings)))
    assert run <= timedelta(seconds=60 + 2 * 13)


async def test_no_one_sees_an_always_recorded_desktop_without_storage(stage: RecordedStage) -> None:
    stage.services.recordings._limits.storage = None
    assert await fetch_until_refused(stage, NO_STORAGE) == 0
    assert NO_STORAGE in refuse_picture(stage.session)


@pytest.mark.parametrize(("gigabytes", "space"), [(100, 9), (10, 9.5)])
async def test_space_is_kept_free_for_the_database(
    gigabytes: int, space: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = SimpleNamespace(f_blocks=gigabytes << 20, f_bavail=10 << 20, f_frsize=1 << 10)
    monkeypatch.setattr(os, "statvfs", lambda _path: volume)
    assert await RecordingFolder(tmp_path).space() == space * (1 << 30)
    assert recording_storage._KEPT_FREE == 1 << 30


def test_pause_follows_the_recorders_settings() -> None:
    longer = a_template("office", env=[{"name": "PIXELFLUX_RECORD_KEYFRAME_S", "value": "60"}])
    assert longest_pause(None) == timedelta(seconds=25)
    assert longest_pause(longer) == timedelta(seconds=150)


@pytest.mark.parametrize(
    ("env", "rate"),
    [
        ({}, 4 << 20),
        ({"PIXELFLUX_RECORD_FPS": "30"}, 8 << 20),
        ({"PIXELFLUX_RECORD_FPS": "5"}, 4 << 20),
        ({"PIXELFLUX_RECORD_BITRATE": "40000"}, 10_000_000),
        ({"PIXELFLUX_RECORD_FPS": "many", "PIXELFLUX_RECORD_BITRATE": "inf"}, 4 << 20),
    ],
)
def test_rate_follows_the_recorders_settings(env: dict[str, str], rate: int) -> None:
    variables = [{"name": name, "value": value} for name, value in env.items()]
    assert recording_rate(a_template("office", env=variables)) == rate
    assert recording_rate(None) == 4 << 20
