"""The page of a home's files: who may copy in which direction, what is audited, and what an agent
may answer.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import pytest
from aiohttp import web

from support.csrf import csrf_of
from support.waiting import eventually
from support.web_server import serve_app
from unit.gateway.files_agent import files_agent, point
from unit.gateway.portal_stage import (
    ADMIN,
    ALICE,
    BOB,
    PageBrowser,
    PortalStage,
    a_template,
    running,
    text_of,
)
from vdi.gateway.in_flight import USER_ANSWERS_BYTES
from vdi.gateway.portal import files
from vdi.gateway.rights import User
from vdi.gateway.store.audit import Act, audit
from vdi.gateway.web import middleware
from vdi.session.homes import HomeClaim
from vdi.session.template_image import file_transfers

PAGE = "/desktops/alice-desktop/files"
CONTENT = f"{PAGE}/content"
FROM_PAGE = {"Sec-Fetch-Site": "same-origin", "Accept": "*/*"}
EVE = User("eve@example.com", "Eve", login_id="login-eve")
ENTRY = {"name": "a", "kind": "file", "sizeBytes": 1, "modified": 1}
FOLDER = {"entries": [ENTRY], "isCut": False, "usedBytes": 1, "sizeBytes": 2}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "Desktop").mkdir()
    (tmp_path / "Desktop/report.html").write_text("<script>alert(1)</script>")
    (tmp_path / ".profile").write_text("x" * 2500)
    return tmp_path


@pytest.fixture
def stage(home: Path) -> Iterator[PortalStage]:
    """alice-desktop with the image's own agent, shared with Bob."""
    stage = PortalStage()
    put(stage)
    with files_agent(stage, home):
        yield stage


def put(stage: PortalStage, role: str = "collaborator", spec: Any = None, **session: Any) -> None:
    session = {"access": [{"user": BOB.email, "role": role}]} | session
    stage.put(a_template(**(spec or {})), running(**session))


async def send(
    browser: PageBrowser, path: str, content: Any = b"new", token: str | None = None, **more: str
) -> Any:
    if token is None:
        token = csrf_of(await browser.html("/homes"))
    headers = FROM_PAGE | {"X-CSRF-Token": token, "Content-Type": "application/octet-stream"} | more
    return await browser.client.post(f"{PAGE}?path={path}", content=content, headers=headers)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def copies(stage: PortalStage) -> list[tuple[str, str, str, dict[str, str]]]:
    """The audit of files: (actor, action, outcome, detail) of each act."""
    last = {row.act: row for row in stage.rows.rows(audit) if row.action.startswith("files.")}
    decode = msgspec.json.decode
    return [(row.actor, row.action, row.outcome, decode(row.detail)) for row in last.values()]


@pytest.mark.parametrize("person", [ALICE, BOB])
async def test_a_folder_is_listed_with_sizes_and_space(stage: PortalStage, person: User) -> None:
    browser = stage.browser(person)
    page = await browser.html(PAGE)
    assert "Desktop/" in text_of(page) and ".profile" not in page
    shown = await browser.html(f"{PAGE}?hidden=1")
    assert ".profile 2.5 kB" in text_of(shown) and f"{PAGE}?path=Desktop&amp;hidden=1" in shown
    assert f'href="{CONTENT}?path=Desktop/report.html" download' in await browser.html(
        f"{PAGE}?path=Desktop"
    )
    assert copies(stage) == []


@pytest.mark.parametrize(
    ("disk", "shown", "absent"),
    [
        (10 << 30, "1 Byte of 10.7 GB used", "Size"),
        (100 << 30, "Size of this home: 10 GiB", "used"),
    ],
)
async def test_space_is_that_of_the_home_not_of_the_nodes_disk(
    stage: PortalStage, disk: int, shown: str, absent: str
) -> None:
    notes = {"annotations": {"vdi.kasm.io/user": ALICE.email}, "resourceVersion": "1"}
    meta = {"name": "home", "namespace": "vdi-sessions", "uid": "h"} | notes
    claim = {"metadata": meta, "status": {"capacity": {"storage": "10Gi"}}}
    stage.world.homes.observe(msgspec.convert(claim, HomeClaim))
    put(stage, status={"homeClaim": "home"})
    folder = FOLDER | {"entries": [], "sizeBytes": disk}
    stage.agent.real, stage.agent.folders["alice-desktop"] = None, msgspec.json.encode(folder)
    page = text_of(await stage.browser().html(PAGE))
    assert shown in page and absent not in page.partition("Name Size")[0].partition("replaced")[
        2
    ].replace(shown, "")


async def change(browser: PageBrowser, action: str, path: str, to: str = "") -> Any:
    where = f"{PAGE}/{action}?path={path}"
    return await browser.post(where, at="/homes", **({"to": to} if to else {}))


async def test_entries_are_created_moved_and_deleted_with_one_row_each(
    stage: PortalStage, home: Path
) -> None:
    browser = stage.browser(BOB)
    assert (await change(browser, "mkdir", "Desktop", "neu ä")).status_code == 303
    answer = await change(browser, "move", "Desktop/report.html", "/Desktop/neu ä/a & b")
    assert answer.headers["location"] == f"{PAGE}?path=Desktop&done=file-move&name=report.html"
    assert (home / "Desktop/neu ä/a & b").exists()
    question = text_of(await browser.html(f"{PAGE}/delete?path=Desktop"))
    assert "Delete Desktop?" in question and "with all files and folders in it" in question
    assert (home / "Desktop").exists()
    assert (await change(browser, "delete", "Desktop")).status_code == 303
    assert not (home / "Desktop").exists()
    moved = {"path": "Desktop/report.html", "to": "Desktop/neu ä/a & b"}
    assert copies(stage) == [
        (BOB.email, "files.mkdir", "done", {"path": "Desktop/neu ä"}),
        (BOB.email, "files.move", "done", moved),
        (BOB.email, "files.delete", "done", {"path": "Desktop"}),
    ]


@pytest.mark.parametrize(
    ("action", "path", "to", "status"),
    [
        ("mkdir", "", "a\u0007b", 422), ("mkdir", "", "a\u202eb", 422), ("mkdir", "", "", 422),
        ("move", ".profile", "a\nb", 422), ("move", ".profile", "Desktop", 409), ("move", ".profile", "../x", 409),
        ("mkdir", "", "Desktop", 409), ("delete", "", "", 409), ("delete", "gone", "", 404), ("delete", "..", "", 409),
    ],
)  # fmt: skip
async def test_a_refused_change_says_why_and_is_not_in_the_audit(
    stage: PortalStage, home: Path, action: str, path: str, to: str, status: int
) -> None:
    answer = await change(stage.browser(), action, path, to)
    assert (answer.status_code, 'role="alert"' in answer.text) == (status, True)
    assert names_in(home) == [".profile", "Desktop"]
    assert copies(stage) == []


@pytest.mark.parametrize(
    ("person", "session", "status"),
    [
        (BOB, {"role": "viewer"}, 403),
        (EVE, {}, 404),
        (ALICE, {"spec": {"streaming": {"fileTransfer": "Download"}}}, 403),
        (ALICE, {"status": {"recording": {"mode": "Always", "state": "Failed"}}}, 409),
    ],
)
async def test_changes_need_the_rights_of_an_upload(
    stage: PortalStage, home: Path, person: User, session: dict[str, Any], status: int
) -> None:
    put(stage, **session)
    browser = stage.browser(person)
    assert (await change(browser, "delete", ".profile")).status_code == status
    assert (await browser.get(f"{PAGE}/delete?path=.profile")).status_code == status
    assert (home / ".profile").exists() and copies(stage) == []
    assert "Rename" not in (await browser.get(PAGE)).text


async def test_files_are_closed_while_a_recorded_desktop_has_no_recording(
    stage: PortalStage,
) -> None:
    recording = {"recording": {"mode": "Always", "state": "On"}}
    put(stage, status=recording)
    browser = stage.browser()
    assert "Desktop/" in text_of(await browser.html(PAGE))
    recording["recording"]["state"] = "Failed"
    put(stage, status=recording)
    assert "it is not recorded now" in text_of(await browser.html(PAGE))
    assert (await browser.get(f"{CONTENT}?path=.profile", **FROM_PAGE)).status_code == 409
    assert (await send(browser, "Desktop/new.txt")).status_code == 409
    assert copies(stage) == []


async def test_a_name_that_is_not_utf_8_can_be_downloaded(stage: PortalStage, home: Path) -> None:
    (home / b"caf\xe9".decode(errors="surrogateescape")).write_text("found")
    browser = stage.browser()
    assert f"{CONTENT}?path=caf%E9" in await browser.html(PAGE)
    answer = await browser.get(f"{CONTENT}?path=caf%E9", **FROM_PAGE)
    assert (answer.text, answer.headers["content-disposition"]) == (
        "found",
        "attachment; filename*=UTF-8''caf%3F",
    )


async def test_a_download_is_never_shown_and_is_audited(stage: PortalStage) -> None:
    answer = await stage.browser(BOB).get(f"{CONTENT}?path=Desktop/report.html", **FROM_PAGE)
    assert (answer.status_code, answer.text) == (200, "<script>alert(1)</script>")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''report.html"
    assert answer.headers["x-content-type-options"] == "nosniff"
    detail = {"path": "Desktop/report.html", "bytes": "25"}
    assert copies(stage) == [(BOB.email, "files.download", "done", detail)]


async def test_a_folder_is_downloaded_as_zip(stage: PortalStage) -> None:
    answer = await stage.browser().get(f"{CONTENT}?path=", **FROM_PAGE)
    assert ZipFile(io.BytesIO(answer.content)).namelist() == [".profile", "Desktop/report.html"]
    assert answer.headers["content-disposition"].endswith("alice-desktop.zip")
    await stage.services.audit.write_soon()
    detail = {"path": "", "bytes": str(len(answer.content))}
    assert copies(stage) == [(ALICE.email, "files.download", "done", detail)]


async def test_an_upload_passes_on_more_than_a_form_may_have(
    stage: PortalStage, home: Path
) -> None:
    content = b"\x00" * (3 * middleware.PUBLIC_BODY)
    answer = await send(stage.browser(), "Desktop/new.bin", content)
    assert (answer.status_code, (home / "Desktop/new.bin").read_bytes() == content) == (201, True)
    detail = {"path": "Desktop/new.bin", "bytes": str(len(content))}
    assert copies(stage) == [(ALICE.email, "files.upload", "done", detail)]
    answer = await send(stage.browser(), "Desktop/new.bin", content * 100)
    assert (answer.status_code, "File exists" in answer.text) == (409, True)
    assert (home / "Desktop/new.bin").read_bytes() == content


async def test_an_upload_or_download_of_another_page_is_refused(
    stage: PortalStage, home: Path
) -> None:
    browser = stage.browser()
    assert (await send(browser, "new", token="wrong")).status_code == 403
    assert (await send(browser, "new", **{"Sec-Fetch-Site": "same-site"})).status_code == 403
    for site in ("same-site", "cross-site"):
        assert (
            await browser.get(f"{CONTENT}?path=.profile", **{"Sec-Fetch-Site": site})
        ).status_code == 403
    assert not (home / "new").exists()
    assert copies(stage) == []


@pytest.mark.parametrize(
    ("person", "change", "listed", "downloaded", "uploaded"),
    [
        (BOB, {"role": "viewer"}, 403, 403, 403),
        (BOB, {"role": "presenter"}, 404, 404, 404),
        (EVE, {}, 404, 404, 404),
        (ADMIN, {}, 403, 403, 403),
        (ALICE, {"spec": {"streaming": {"fileTransfer": "None"}}}, 403, 403, 403),
        (ALICE, {"spec": {"streaming": {"fileTransfer": "Download"}}}, 200, 200, 403),
        (BOB, {"spec": {"streaming": {"fileTransfer": "Upload"}}}, 403, 403, 201),
        (
            ALICE,
            {"spec": {"env": [{"name": "SELKIES_FILE_TRANSFERS", "value": "upload|locked"}]}},
            403,
            403,
            201,
        ),
        (ALICE, {"template": "gone"}, 403, 403, 403),
        (ALICE, {"suspended": True}, 409, 409, 409),
    ],
)
async def test_who_may_copy_in_which_direction(
    stage: PortalStage,
    home: Path,
    person: User,
    change: dict[str, Any],
    listed: int,
    downloaded: int,
    uploaded: int,
) -> None:
    put(stage, **change)
    browser = stage.browser(person)
    assert (await browser.get(PAGE)).status_code == listed
    assert (await browser.get(f"{CONTENT}?path=.profile", **FROM_PAGE)).status_code == downloaded
    assert (await send(browser, "new")).status_code == uploaded
    assert (home / "new").exists() == (uploaded == 201)


@pytest.mark.parametrize(
    "spec",
    [
        {"streaming": {"fileTransfer": "Later"}},
        {
            "env": [
                {
                    "name": "SELKIES_FILE_TRANSFERS",
                    "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}},
                }
            ]
        },
        {"streaming": {"selkies": "1"}},
        {"protocol": "Web"},
    ],
)
def test_an_unknown_switch_allows_nothing(spec: dict[str, Any]) -> None:
    assert file_transfers(a_template()) == {"upload", "download"}
    assert file_transfers(a_template(**spec)) == set()


async def test_a_suspended_desktop_is_offered_to_be_resumed(stage: PortalStage) -> None:
    put(stage, suspended=True, status={"phase": "Suspended"})
    page = await stage.browser().html(PAGE)
    assert "is not running" in page and 'formaction="/desktops/alice-desktop/resume"' in page


async def test_a_copy_ends_when_the_share_ends(stage: PortalStage, home: Path) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"first"
        put(stage, access=[])
        yield b"second"

    answer = await send(stage.browser(BOB), "part", content(), **{"Content-Length": "11"})
    assert answer.status_code == 404
    await eventually(lambda: not (home / "part").exists(), "the agent deletes the part")
    assert copies(stage) == []


async def test_requests_for_files_are_limited(
    stage: PortalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_REQUESTS", 1)
    browser = stage.browser()
    assert [(await browser.get(PAGE)).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (FOLDER | {"entries": [ENTRY] * 2001}, 409),
        (FOLDER | {"entries": [ENTRY | {"kind": "device"}]}, 409),
        (FOLDER | {"entries": [ENTRY | {"modified": 10**12}]}, 409),
        (FOLDER | {"usedBytes": -1}, 409),
        (FOLDER | {"entries": [ENTRY | {"name": "..%2F<b>"}]}, 200),
    ],
)
async def test_an_agents_list_is_untrusted(body: dict[str, Any], status: int) -> None:
    async def serve(_: web.Request) -> web.Response:
        return web.json_response(body)

    stage, app = PortalStage(), web.Application()
    put(stage)
    app.router.add_get("/files", serve)
    async with serve_app(app) as port:
        point(stage, port)
        answer = await stage.browser().get(PAGE)
    assert (answer.status_code, "<b>" in answer.text) == (status, False)


async def test_a_zip_that_is_not_complete_fails() -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"PK\x03\x04")
        assert request.transport is not None
        request.transport.close()
        return answer

    stage, app = PortalStage(), web.Application()
    put(stage)
    app.router.add_get("/files/content", serve)
    async with serve_app(app) as port:
        point(stage, port)
        with pytest.raises(RuntimeError):
            await stage.browser().get(f"{CONTENT}?path=", **FROM_PAGE)
    await stage.services.audit.write_soon()
    assert copies(stage)[0][2:] == ("done", {"path": "", "bytes": "4"})


async def test_a_zip_whose_browser_left_counts_what_went(
    stage: PortalStage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, written = asyncio.Event(), []

    async def record(act: Act, outcome: str) -> None:
        assert outcome == "begun"
        begun.set()

    async def record_soon(act: Act) -> None:
        written.append(act)

    monkeypatch.setattr(stage.services.audit, "record", record)
    monkeypatch.setattr(stage.services.audit, "record_soon", record_soon)
    download = asyncio.create_task(stage.browser().get(f"{CONTENT}?path=", **FROM_PAGE))
    await begun.wait()
    download.cancel()
    await asyncio.wait([download])
    assert [act.detail["bytes"] for act in written] == ["0"]


async def test_a_page_of_long_paths_is_cut(stage: PortalStage) -> None:
    """Each row has the path of the folder: a request's own path may not make a page of 60 MB."""
    entries = [ENTRY | {"name": f"{number}"} for number in range(2000)]
    stage.agent.real, stage.agent.folders["alice-desktop"] = (
        None,
        msgspec.json.encode(FOLDER | {"entries": entries}),
    )
    short, long = [await stage.browser().html(f"{PAGE}?path={path}") for path in ("a", "a" * 8000)]
    assert short.count("<tr>") == 2001 and "more entries than are listed" not in short
    assert "more entries than are listed" in long and len(long) < 2 << 20


async def test_pages_that_no_browser_reads_are_few(
    stage: PortalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.in_flight._BYTES_SECONDS", 0.1)
    entries = [ENTRY | {"name": f"{number}"} for number in range(2000)]
    stage.agent.real, stage.agent.folders["alice-desktop"] = (
        None,
        msgspec.json.encode(FOLDER | {"entries": entries}),
    )
    browser = stage.browser()
    async with AsyncExitStack() as unread:
        await stage.agent.answers.reserve(unread, ALICE.email, USER_ANSWERS_BYTES - (256 << 10))
        refused = await browser.get(PAGE)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert (await browser.get(PAGE)).status_code == 200
    assert len(stage.agent.answers) == 0
