"""Recordings in a bucket of a real S3 server: stored, played in ranges, expired; and what people
see while it is away.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.edge_traefik import free_port
from support.s3_server import S3, s3_program
from unit.gateway.files_agent import files_agent
from unit.gateway.portal_stage import ADMIN
from unit.gateway.test_recordings import FROM_PAGE, RecordedStage
from unit.images.recording_selkies import recorded_desktop
from vdi.gateway.desktop.recording_storage import RecordingBucket
from vdi.gateway.store.recordings import recordings

pytestmark = pytest.mark.timeout(600)  # the first time, building the server takes a minute or two


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return s3_program(tmp_path_factory.mktemp("logs"))


@pytest.fixture
def s3(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with S3(program, tmp_path, f"127.0.0.1:{free_port()}") as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def stage(s3: S3, tmp_path: Path) -> Iterator[RecordedStage]:
    (tmp_path / "run").mkdir()
    with recorded_desktop(tmp_path / "run") as desktop:
        stage = RecordedStage("s3://recordings/desktops", desktop)
        with files_agent(stage, tmp_path, recordings=desktop.recordings):
            yield stage


async def test_recording_is_stored_in_pieces_played_and_deleted(
    stage: RecordedStage, s3: S3
) -> None:
    await stage.fetch(b"begin")
    stage.services.recordings._stored.clear()  # another process goes on
    await stage.fetch(b", middle")
    recording = await stage.ended(b", end")
    assert s3.keys == [f"desktops/{recording}/{offset:012}" for offset in (0, 5, 13)]
    browser, address = stage.browser(ADMIN), f"/api/v1/recordings/{recording}"
    whole = await browser.get(address, **FROM_PAGE)
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (
        200,
        b"begin, middle, end",
        "18",
    )
    for ranges, part, where in [
        ("3-14", b"in, middle, ", "3-14"),
        ("13-", b", end", "13-17"),
        ("16-99", b"nd", "16-17"),
    ]:
        found = await browser.get(address, Range=f"bytes={ranges}", **FROM_PAGE)
        assert (found.status_code, found.content) == (206, part)
        assert found.headers["content-range"] == f"bytes {where}/18"
    assert (await browser.get(address, Range="bytes=18-", **FROM_PAGE)).status_code == 416
    stage.clock.wall += timedelta(hours=1)
    await stage.services.recordings.delete_expired()
    assert (s3.keys, stage.rows.rows(recordings)) == ([], [])


async def test_pieces_that_are_stored_are_never_replaced(s3: S3) -> None:
    bucket = RecordingBucket("s3://recordings")
    assert await bucket.put("recording", 0, b"stored") == 6
    # The place where the desktop goes on.
    assert await bucket.put("recording", 0, b"something else") == 6
    await bucket.delete("another")
    response = await bucket.play("recording", "")
    assert b"".join([bytes(chunk) async for chunk in response.body_iterator]) == b"stored"  # type: ignore[attr-defined]


async def test_recording_goes_on_after_the_server_was_away(stage: RecordedStage, s3: S3) -> None:
    await stage.fetch(b"before")
    s3.stop()
    with pytest.raises(OSError):
        await stage.fetch(b", meanwhile")
    (row,) = stage.rows.rows(recordings)
    assert row.size_bytes == 6
    stage.clock.wall += timedelta(minutes=2)
    assert (
        await stage.browser(ADMIN).get(f"/api/v1/recordings/{row.id}", **FROM_PAGE)
    ).status_code == 503
    s3.start()
    recording = await stage.ended(b", after")
    answer = await stage.browser(ADMIN).get(f"/api/v1/recordings/{recording}", **FROM_PAGE)
    assert answer.content == b"before, meanwhile, after"


@pytest.mark.parametrize("wrong", ["key", "bucket"])
async def test_wrong_settings_leave_the_desktop_unrecorded(
    stage: RecordedStage, s3: S3, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stage.services.recordings._storage = RecordingBucket(
        "s3://recordings" if wrong == "key" else "s3://others"
    )
    with pytest.raises(
        OSError, match="SignatureDoesNotMatch" if wrong == "key" else "NoSuchBucket"
    ):
        await stage.fetch(b"begin")
    assert stage.rows.rows(recordings) == []
    assert stage.desktop.look()["state"] == "Failed"
