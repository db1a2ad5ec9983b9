"""Films in a bucket of a real S3 server: stored, played in ranges, expired; and what people see while it is away."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import DEVNULL, Popen

import httpx
import pytest

from cluster.edge_traefik import free_port
from support.waiting import wait_until
from tools import binaries
from unit.devcluster.film_selkies import filmed_desktop
from unit.gateway.files_agent import files_agent
from unit.gateway.portal_stage import ADMIN
from unit.gateway.test_recordings import FROM_PAGE, RecordedStage
from vdi.devcluster.progress import Progress
from vdi.gateway.film_storage import FilmBucket
from vdi.gateway.store.recordings import recordings

pytestmark = pytest.mark.timeout(600)  # the first time, building the server takes a minute or two


class S3:
    """versitygw on loopback; a bucket is a folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.address = program, folder, f"127.0.0.1:{free_port()}"
        self.bucket = folder / "buckets/films"
        self.bucket.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        env = os.environ | {"ROOT_ACCESS_KEY": "gateway", "ROOT_SECRET_KEY": "secret"}
        command: list[str | Path] = [
            self.program,
            "--port",
            self.address,
            "--health",
            "/health",
            "posix",
            str(self.bucket.parent),
        ]
        self.process = Popen(command, env=env, cwd=self.folder, stdout=DEVNULL, stderr=DEVNULL)
        wait_until("the S3 server answers", self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)

    @property
    def keys(self) -> list[str]:
        return sorted(str(path.relative_to(self.bucket)) for path in self.bucket.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Progress(tmp_path_factory.mktemp("logs")) as progress:
        return binaries.ensure(["versitygw"], progress=progress)["versitygw"]


@pytest.fixture
def s3(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    server = S3(program, tmp_path)
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://{server.address}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "gateway",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture
def stage(s3: S3, tmp_path: Path) -> Iterator[RecordedStage]:
    (tmp_path / "run").mkdir()
    with filmed_desktop(tmp_path / "run") as desktop:
        stage = RecordedStage("s3://films/desktops", desktop)
        with files_agent(stage, tmp_path) as handler:
            handler.films = desktop.films
            yield stage


async def test_film_is_stored_in_pieces_played_and_deleted(stage: RecordedStage, s3: S3) -> None:
    await stage.fetch(b"begin")
    stage.edge.recordings._stored.clear()  # another process goes on
    await stage.fetch(b", middle")
    film = await stage.ended(b", end")
    assert s3.keys == [f"desktops/{film}/{offset:012}" for offset in (0, 5, 13)]
    browser, address = stage.browser(ADMIN), f"/api/v1/recordings/{film}"
    whole = await browser.get(address, **FROM_PAGE)
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"begin, middle, end", "18")
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
    await stage.edge.recordings.delete_expired()
    assert (s3.keys, stage.rows.rows(recordings)) == ([], [])


async def test_pieces_that_are_stored_are_never_replaced(s3: S3) -> None:
    bucket = FilmBucket("s3://films")
    assert await bucket.put("film", 0, b"stored") == 6
    assert await bucket.put("film", 0, b"something else") == 6  # the place where the desktop goes on
    await bucket.delete("another")
    response = await bucket.play("film", "")
    assert b"".join([bytes(chunk) async for chunk in response.body_iterator]) == b"stored"  # type: ignore[attr-defined]


async def test_film_goes_on_after_the_server_was_away(stage: RecordedStage, s3: S3) -> None:
    await stage.fetch(b"before")
    s3.stop()
    with pytest.raises(OSError):
        await stage.fetch(b", meanwhile")
    (row,) = stage.rows.rows(recordings)
    assert row.size_bytes == 6
    stage.clock.wall += timedelta(minutes=2)
    assert (await stage.browser(ADMIN).get(f"/api/v1/recordings/{row.id}", **FROM_PAGE)).status_code == 503
    s3.start()
    film = await stage.ended(b", after")
    answer = await stage.browser(ADMIN).get(f"/api/v1/recordings/{film}", **FROM_PAGE)
    assert answer.content == b"before, meanwhile, after"


@pytest.mark.parametrize("wrong", ["key", "bucket"])
async def test_wrong_settings_leave_the_desktop_unrecorded(
    stage: RecordedStage, s3: S3, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stage.edge.recordings._storage = FilmBucket("s3://films" if wrong == "key" else "s3://others")
    with pytest.raises(OSError, match="SignatureDoesNotMatch" if wrong == "key" else "NoSuchBucket"):
        await stage.fetch(b"begin")
    assert stage.rows.rows(recordings) == []
    assert stage.desktop.look()["state"] == "Failed"
