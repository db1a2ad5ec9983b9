"""Recordings in the gateway: fetched from the image's own agent, kept, listed, watched, audited and
deleted.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from unit.gateway.files_agent import files_agent
from unit.gateway.portal_stage import ADMIN, ALICE, BOB, PortalStage, a_template, running
from unit.images.recording_selkies import RecordedDesktop, recorded_desktop
from vdi.api.session import VDISession
from vdi.gateway.denied import ActionDenied, BusyError
from vdi.gateway.desktop.recording_storage import RecordingBucket
from vdi.gateway.in_flight import RECORDING_PIECE_BYTES, USER_OPEN_RECORDINGS
from vdi.gateway.login.logins import SOURCE_OIDC, Device, Identity
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import audit
from vdi.gateway.store.recordings import recordings

FROM_PAGE = {"Sec-Fetch-Site": "same-origin", "Accept": "*/*"}
RUN = {"readyTime": "2026-11-20T11:00:00Z", "recording": {"mode": "Always", "state": "On"}}


class RecordedStage(PortalStage):
    """alice-desktop is recorded; recordings are in `place`."""

    def __init__(self, place: str, desktop: RecordedDesktop) -> None:
        super().__init__(settings=replace(Settings(), recordings=place))
        self.folder, self.desktop = Path(place), desktop
        self.put(a_template(recording={"mode": "Always", "retention": "1h"}), running(status=RUN))

    @property
    def session(self) -> VDISession:
        session = self.world.session("alice-desktop")
        assert session is not None
        return session

    async def fetch(self, content: bytes = b"") -> None:
        """The desktop recordings some more, and the gateway has its turn."""
        self.desktop.look()
        if content:
            self.desktop.recorder.write(content)
            self.desktop.look()
        self.clock.wall += timedelta(seconds=2)
        await self.services.recordings.fetch(self.session)

    async def ended(self, content: bytes = b"recording") -> str:
        """A recording that has ended; returns its id."""
        await self.fetch(content)
        self.clock.wall += timedelta(minutes=2)
        return str(self.rows.rows(recordings)[-1].id)

    def audited(self, action: str) -> list[tuple[str, str, str]]:
        last = {row.act: row for row in self.rows.rows(audit) if row.action == action}
        return [(row.actor, row.target, row.outcome) for row in last.values()]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[RecordedStage]:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "run").mkdir()
    with recorded_desktop(tmp_path / "run") as desktop:
        stage = RecordedStage(str(tmp_path / "recordings"), desktop)
        with files_agent(stage, tmp_path, recordings=desktop.recordings):
            yield stage


async def test_recording_is_stored_as_it_grows_and_over_a_restart(stage: RecordedStage) -> None:
    await stage.fetch(b"begin")
    await stage.fetch(b", middle")
    stage.services.recordings._stored.clear()  # another process goes on
    await stage.fetch(b", end")
    (file,) = stage.folder.iterdir()
    (row,) = stage.rows.rows(recordings)
    assert (file.name, file.read_bytes()) == (f"{row.id}.mp4", b"begin, middle, end")
    assert (row.size_bytes, row.seconds, row.keep_until - row.ended) == (
        18,
        3.0,
        timedelta(hours=1),
    )
    assert stage.desktop.look() == {"state": "On", "message": ""}


async def test_volume_that_is_gone_leaves_the_desktop_unrecorded(stage: RecordedStage) -> None:
    stage.folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        await stage.fetch(b"begin")
    assert stage.rows.rows(recordings) == []
    assert stage.desktop.look()["state"] == "Failed"


async def test_program_in_the_agents_place_changes_nothing_that_is_stored(
    stage: RecordedStage,
) -> None:
    await stage.fetch(b"what alice did")
    (file,) = stage.folder.iterdir()
    headers = {
        "X-VDI-Recording": file.stem.rpartition("-")[2],
        "X-VDI-Offset": "0",
        "X-VDI-Seconds": "1",
    }
    answers = [(b"what she did not", headers), (b"", {})]
    stage.desktop.recordings.fetch = lambda _number, _stored: answers.pop(0)
    await stage.fetch()
    assert file.read_bytes() == b"what alice didot"


@pytest.mark.parametrize(
    "wrong",
    [
        {"X-VDI-Recording": "../x"},
        {"X-VDI-Recording": "-1"},
        {"X-VDI-Offset": str(1 << 40)},
        {"X-VDI-Seconds": "nan"},
    ],
)
async def test_headers_of_an_agent_are_checked(stage: RecordedStage, wrong: dict[str, str]) -> None:
    headers = {"X-VDI-Recording": "1", "X-VDI-Offset": "0", "X-VDI-Seconds": "1"} | wrong
    stage.desktop.recordings.fetch = lambda _number, _stored: (b"x", headers)
    with pytest.raises(ValueError, match=r"Expected|Invalid"):
        await stage.fetch()
    assert list(stage.folder.iterdir()) == []


async def test_page_says_how_much_of_a_run_was_recorded(stage: RecordedStage) -> None:
    await stage.fetch(b"begin")  # 1 s of a run of an hour
    page = await stage.browser(ADMIN).text("/recordings")
    assert "alice@example.com Ubuntu".lower() in page.lower()
    assert page.count("1.0 s") == 2, page


async def test_recording_is_watched_in_ranges_and_each_view_is_one_row(
    stage: RecordedStage,
) -> None:
    recording = await stage.ended(b"0123456789")
    browser = stage.browser(ADMIN)
    page = await browser.get(f"/recordings/{recording}")
    assert stage.audited("recording.view") == []  # a link of another page leads here, too
    assert f'src="/api/v1/recordings/{recording}"' in page.text
    assert "media-src 'self'" in page.headers["content-security-policy"]
    part = await browser.get(f"/api/v1/recordings/{recording}", Range="bytes=2-4", **FROM_PAGE)
    assert (part.status_code, part.content, part.headers["content-type"]) == (
        206,
        b"234",
        "video/mp4",
    )
    assert (
        await browser.get(f"/api/v1/recordings/{recording}", **FROM_PAGE)
    ).content == b"0123456789"
    assert stage.audited("recording.view") == [(ADMIN.email, "alice-desktop", "done")]
    for site in ("cross-site", "same-site"):  # of another page the row in the audit would be a lie
        address = f"/api/v1/recordings/{recording}"
        assert (
            await stage.browser(ADMIN).get(address, **{"Sec-Fetch-Site": site})
        ).status_code == 403


async def test_one_person_has_few_recordings_open(stage: RecordedStage) -> None:
    recording = await stage.ended(b"0123456789")
    async with AsyncExitStack() as until_read:
        for _ in range(USER_OPEN_RECORDINGS):
            await stage.services.recordings.watch(ADMIN, recording, "", until_read)
        with pytest.raises(BusyError, match="already has 4 recordings open"):
            await stage.services.recordings.watch(ADMIN, recording, "", until_read)
    browser = stage.browser(ADMIN)
    for _ in range(USER_OPEN_RECORDINGS + 1):  # each is over before the next one
        assert (
            await browser.get(f"/api/v1/recordings/{recording}", **FROM_PAGE)
        ).status_code == 200


async def test_recording_in_a_bucket_is_sent_in_small_pieces() -> None:
    bucket: Any = RecordingBucket.__new__(RecordingBucket)
    bucket._store = MemoryStore()
    content = {0: b"a" * 300_000, 300_000: b"b" * 300_000, 600_000: b"c"}
    for place, piece in reversed(content.items()):
        assert await bucket.put("recording", place, piece) == place + len(piece)
    pieces = await bucket._pieces("recording")
    parts = [part async for part in bucket._read(pieces, 1, 600_001)]
    assert b"".join(parts) == b"".join(content.values())[1:]
    assert max(map(len, parts)) == RECORDING_PIECE_BYTES
    await bucket.delete("recording")
    with pytest.raises(FileNotFoundError):
        await bucket.play("recording", "")


async def test_recording_in_the_making_is_shown_to_no_one(stage: RecordedStage) -> None:
    await stage.fetch(b"begin")
    (row,) = stage.rows.rows(recordings)
    page = await stage.browser(ADMIN).html("/recordings")
    assert "still being recorded" in page and 'href="/recordings/' not in page
    with pytest.raises(ActionDenied, match="still being made"):
        await stage.services.recordings.watch(ADMIN, row.id)
    assert stage.audited("recording.view") == []


@pytest.mark.parametrize(
    ("person", "owner_may", "sees"),
    [(ADMIN, False, True), (ALICE, False, False), (ALICE, True, True), (BOB, True, False)],
)
async def test_owners_see_their_recordings_if_the_template_allows(
    stage: RecordedStage, person: User, owner_may: bool, sees: bool
) -> None:
    stage.put(a_template(recording={"mode": "Always", "ownerMayWatch": owner_may}))
    recording = await stage.ended()
    browser = stage.browser(person)
    items = (await browser.get("/api/v1/recordings", Accept="application/json")).json()["items"]
    assert [item["id"] for item in items] == [recording] * sees
    assert (f"/recordings/{recording}" in await browser.html("/recordings")) is sees
    for path in (f"/recordings/{recording}", f"/api/v1/recordings/{recording}"):
        assert (await browser.get(path, **FROM_PAGE)).status_code == (200 if sees else 404), path


async def test_next_account_with_the_address_sees_only_its_own_recordings(
    stage: RecordedStage,
) -> None:
    """After a release, and of another provider; those who may audit see all."""
    stage.put(a_template(recording={"mode": "Always", "ownerMayWatch": True}))
    recordings: list[str] = []
    for issuer, subject in (("https://a", "1"), ("https://a", "2"), ("https://b", "3")):
        account = Identity(user=ALICE.email, source=SOURCE_OIDC, issuer=issuer, subject=subject)
        if subject == "2":
            await stage.logins.release(ALICE.email)
        await stage.logins.begin(account, Device())
        for recording in recordings:
            with pytest.raises(ActionDenied, match="that you may watch"):
                await stage.services.recordings.find(ALICE, recording)
        stage.desktop.screen = (800 + 2 * len(recordings), 600)
        recordings.append(await stage.ended())
        assert (await stage.services.recordings.find(ALICE, recordings[-1])).id == recordings[-1]
        shown = await stage.services.recordings.newest(ALICE, 9, None)
        assert [recording.id for recording in shown] == recordings[-1:]
    assert len(set(recordings)) == 3
    assert len(await stage.services.recordings.newest(ADMIN, 9, None)) == 3


async def test_list_goes_on_where_a_page_ended(stage: RecordedStage) -> None:
    first = await stage.ended()
    stage.desktop.screen = (800, 600)
    second = await stage.ended()
    seen: list[Any] = []
    cursor = ""
    for _ in range(2):
        address = f"/api/v1/recordings?limit=1{cursor and '&cursor=' + cursor}"
        page = (await stage.browser(ADMIN).get(address, Accept="application/json")).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page.get("next", "")
    assert (seen, cursor) == ([second, first], "")


async def test_retention_deletes_recording_and_row_and_says_so(stage: RecordedStage) -> None:
    recording = await stage.ended()
    kept = stage.services.recordings
    await kept.delete_expired()
    assert (stage.folder / f"{recording}.mp4").exists()
    stage.clock.wall += timedelta(hours=1)
    await kept.delete_expired()
    assert not list(stage.folder.iterdir()) and not stage.rows.rows(recordings)
    assert stage.audited("recording.delete") == [("retention", "alice-desktop", "done")]
    with pytest.raises(ActionDenied, match="There is no recording"):
        await kept.watch(ADMIN, recording)


@pytest.mark.parametrize(("person", "may"), [(ALICE, True), (BOB, False), (ADMIN, False)])
async def test_only_the_owner_switches_a_recording_on_demand(
    stage: RecordedStage, person: User, may: bool
) -> None:
    stage.desktop.recordings.mode, stage.desktop.recordings.is_wanted = "OnDemand", False
    stage.put(running(access=[{"user": BOB.email, "role": "collaborator"}], status=RUN))
    if may:
        await stage.services.recordings.switch(person, stage.session, wanted=True)
    else:
        with pytest.raises(ActionDenied):
            await stage.services.recordings.switch(person, stage.session, wanted=True)
    assert stage.desktop.recordings.is_wanted is may
    assert stage.audited("session.record") == [(ALICE.email, "alice-desktop", "done")] * may


async def test_recording_that_must_be_made_is_not_switched(stage: RecordedStage) -> None:
    with pytest.raises(ActionDenied, match="not recorded on demand"):
        await stage.services.recordings.switch(ALICE, stage.session, wanted=False)
