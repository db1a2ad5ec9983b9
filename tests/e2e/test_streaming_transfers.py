"""Transfers of a template between a person and a desktop: clipboard, files, printed documents; and
settings of the stream that the template has locked. Where a way is closed, the same is asked by
hand, past the page.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from e2e.streaming_desktops import EVERYTHING, NOTHING, Streamed, streamed
from e2e.streaming_page import printed, raw
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

pytestmark = pytest.mark.timeout(120)

INWARDS: dict[str, Any] = {
    "streaming": {"transport": "WebSocket", "clipboard": "In", "fileTransfer": "Upload"}
}
OUTWARDS: dict[str, Any] = {
    "streaming": {"transport": "WebSocket", "clipboard": "Out", "fileTransfer": "Download"}
}
LOCKED = {
    "framerate": 20,
    "bitrate": 3000,
    "encoder": "h264enc",
    "locked": ["framerate", "bitrate", "encoder"],
}
# How long nothing must come where nothing may; where it may, it comes in a tenth of it.
QUIET_MILLISECONDS = 2_000
# Where Selkies puts uploads, and takes downloads from.
FOLDER = "/home/user/Desktop"
# Where Selkies takes printed documents from.
SPOOL = "/home/user/.local/state/selkies/print"
# An empty page: the least that is a PDF.
PAGE = (
    b"%PDF-1.4\n"
    b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\n"
    b"trailer<</Root 1 0 R>>\n"
)

_CLOSED = {"both": (), "inwards": ("out",), "outwards": ("in",), "nothing": ("in", "out")}
DESKTOPS = pytest.mark.parametrize("name", _CLOSED)


@pytest.fixture(scope="module")
def desktops(world: World) -> Iterator[dict[str, Streamed]]:
    locked = {"streaming": NOTHING["streaming"] | LOCKED}
    with streamed(
        world, both=EVERYTHING, inwards=INWARDS, outwards=OUTWARDS, nothing=locked
    ) as made:
        yield made


@DESKTOPS
def test_clipboard_directions_are_enforced(desktops: dict[str, Streamed], name: str) -> None:
    desktop, closed = desktops[name], _CLOSED[name]
    desktop.copy("nothing yet")
    with desktop.opened() as browser:
        here, there = f"from the browser of {name}: ä€", f"from the desktop of {name}: ä€"
        browser.page.evaluate("text => navigator.clipboard.writeText(text)", here)
        browser.page.keyboard.press("Control+V")
        if "in" in closed:
            browser.page.wait_for_timeout(QUIET_MILLISECONDS)
            assert desktop.clipboard() == "nothing yet"
        else:
            wait_until("the browser's text in the desktop", lambda: desktop.clipboard() == here)
        desktop.copy(there)
        if "out" in closed:
            browser.page.wait_for_timeout(QUIET_MILLISECONDS)
            assert clipboard(browser) == here
        else:
            wait_until("the desktop's text in the browser", lambda: clipboard(browser) == there)
        browser.page.goto("about:blank")
        past_the_page(desktop, browser, closed)


def clipboard(browser: DesktopBrowser) -> str:
    return str(browser.page.evaluate("() => navigator.clipboard.readText()"))


def past_the_page(desktop: Streamed, browser: DesktopBrowser, closed: tuple[str, ...]) -> None:
    """The clipboard's messages by hand: in one piece and in parts; asked for in both ways, and as
    it changes.
    """
    desktop.copy("kept")
    text = base64.b64encode(b"in parts").decode()
    with raw(browser, desktop.url) as wire:
        wire.send("REQUEST_CLIPBOARD", "cr")
        if "out" not in closed:
            wire.reported(base64.b64encode(b"kept").decode())
        desktop.copy("changed")
        if "out" not in closed:
            wire.reported(base64.b64encode(b"changed").decode())
        else:
            browser.page.wait_for_timeout(QUIET_MILLISECONDS)
            assert not [text for text in wire.texts() if text.startswith("clipboard")]
        wire.send("cws,1,8", f"cwd,1,{text}", "cwe,1")
        assert desktop.clipboard() == ("changed" if "in" in closed else "in parts")
        wire.send("cw," + base64.b64encode(b"in one piece").decode())
        assert desktop.clipboard() == ("changed" if "in" in closed else "in one piece")


@DESKTOPS
def test_file_transfer_directions_are_enforced(
    desktops: dict[str, Streamed], name: str, tmp_path: Path
) -> None:
    desktop, closed = desktops[name], _CLOSED[name]
    (here := tmp_path / "letter ä.bin").write_bytes(os.urandom(3_000_000))
    with desktop.opened() as browser:
        status = choose(browser, here)
        assert (status, digest_there(desktop, here.name)) == (
            (403, "") if "in" in closed else (200, digest(here))
        )
        assert status_of_upload(browser, "past.bin", "past the page") == (
            403 if "in" in closed else 200
        )
        found = desktop.run(f"ls {FOLDER}")
        assert ("past.bin" in found, here.name in found) == ("in" not in closed, "in" not in closed)
        desktop.run(f"mkdir -p {FOLDER}; head -c 3000000 /dev/urandom >{FOLDER}/report.bin")
        if "out" in closed:
            for path in ("/api/files/", "/api/files/report.bin", "/api/files/.%2freport.bin"):
                assert status_at(browser, path) == 403, path
        else:
            there = download(browser, desktop, "report.bin", tmp_path / "report.bin")
            assert digest(there) == digest_there(desktop, "report.bin")


def choose(browser: DesktopBrowser, file: Path) -> int:
    """Upload a file as the side menu does: it asks the browser for one. Returns the status of the
    upload.
    """
    with browser.page.expect_response("**/api/upload") as answer:
        with browser.page.expect_file_chooser() as chooser:
            browser.page.evaluate("() => dispatchEvent(new CustomEvent('requestFileUpload'))")
        chooser.value.set_files(file)
    return answer.value.status


def download(browser: DesktopBrowser, desktop: Streamed, name: str, to: Path) -> Path:
    """By a click in the list of files, which the side menu shows."""
    files = browser.page.context.new_page()
    files.goto(f"{desktop.url}/api/files/")
    with files.expect_download() as loaded:
        files.get_by_text(name).first.click()
    loaded.value.save_as(to)
    files.close()
    return to


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest_there(desktop: Streamed, name: str) -> str:
    """Empty if it is not there."""
    return desktop.run(f"sha256sum '{FOLDER}/{name}' 2>/dev/null || true").partition(" ")[0]


def status_of_upload(browser: DesktopBrowser, name: str, body: str) -> int:
    """Status of an upload past the page."""
    script = """async ([name, body]) => (
      await fetch('/api/upload', {method: 'POST', headers: {'X-Upload-Path': name}, body})
    ).status"""
    return int(browser.page.evaluate(script, [name, body]))


def status_at(browser: DesktopBrowser, path: str) -> int:
    """Status of what is at this path."""
    return int(browser.page.evaluate("async path => (await fetch(path)).status", path))


def print_page(desktop: Streamed) -> None:
    written = base64.b64encode(PAGE).decode()
    said = desktop.run(
        f"echo {written} | base64 -d | CUPS_SERVER=$XDG_RUNTIME_DIR/selkies-cups/cups.sock lp -d"
        " Selkies"
    )
    assert "request id" in said, said


def test_a_printed_document_is_handed_to_the_browser(desktops: dict[str, Streamed]) -> None:
    desktop = desktops["both"]
    with desktop.opened() as browser:
        print_page(desktop)
        (name,) = wait_until("the document in the page", lambda: printed(browser))
        assert name.endswith(".pdf")
        wait_until(
            "the document is out of the desktop", lambda: name not in desktop.run(f"ls {SPOOL}")
        )


def test_each_transfer_is_in_the_audit_once_in_order(
    desktops: dict[str, Streamed], tmp_path: Path
) -> None:
    desktop = desktops["both"]
    inwards, outwards = "in: 23 characters long.", "out: 29 characters, all of it"
    (letter := tmp_path / "audited.bin").write_bytes(b"x" * 4321)
    with desktop.opened() as browser:
        portal = browser.page.context.new_page()
        portal.goto(desktop.world.portal)
        known = len(transfers(portal, desktop))
        browser.page.bring_to_front()
        browser.page.evaluate("text => navigator.clipboard.writeText(text)", inwards)
        browser.page.keyboard.press("Control+V")
        wait_until("the browser's text in the desktop", lambda: desktop.clipboard() == inwards)
        desktop.copy(outwards)
        wait_until("the desktop's text in the browser", lambda: clipboard(browser) == outwards)
        assert choose(browser, letter) == 200
        download(browser, desktop, letter.name, tmp_path / "back.bin")
        print_page(desktop)
        wait_until("the document in the page", lambda: printed(browser))
        made = [
            ("clipboard.receive", str(len(inwards))),
            ("clipboard.send", str(len(outwards))),
            ("files.upload", "4321"),
            ("files.download", "4321"),
        ]

        def rows() -> list[dict[str, Any]]:
            return transfers(portal, desktop)[known:]

        wait_until(
            "the print in the audit",
            lambda: any(row["action"] == "print.document" for row in rows()),
            5,
        )
        found = [(row["action"], row["detail"].get("bytes", "")) for row in rows()]
        assert [one for one in found if one in made] == made
        assert [action for action, _ in found].count("print.document") == 1
        assert {row["actor"] for row in rows()} == {"both@example.com"}
        assert {
            row["detail"].get("path") for row in rows() if row["action"].startswith("files.")
        } == {letter.name}
        kinds = {
            "clipboard.receive",
            "clipboard.send",
            "files.upload",
            "files.download",
            "print.document",
        }
        assert {action for action, _ in found} - {"viewer.connect", "viewer.disconnect"} == kinds


def transfers(portal: Page, desktop: Streamed) -> list[dict[str, Any]]:
    """The transfers of the owner's desktop, oldest first."""
    text = portal.evaluate(
        "() => fetch('/api/v1/export?what=transfers&format=jsonl').then((answer) => answer.text())"
    )
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["target"] == desktop.name]


def test_disabled_printing_sends_nothing(desktops: dict[str, Streamed]) -> None:
    desktop = desktops["nothing"]
    with desktop.opened() as browser:
        desktop.run(f"mkdir -p {SPOOL}; printf '%%PDF-1.4' >{SPOOL}/letter.pdf")
        assert status_at(browser, "/api/print/letter.pdf") == 403
        assert printed(browser) == []
        assert "letter.pdf" in desktop.run(f"ls {SPOOL}")


def test_locked_setting_cannot_be_changed_by_a_client(desktops: dict[str, Streamed]) -> None:
    """The same requests are granted where nothing is locked."""
    requests = {
        "framerate": 8,
        "video_bitrate": 500,
        "encoder": "vp8enc",
        "rate_control_mode": "crf",
    }
    assert after(desktops["both"], requests) == (8, 500, "vp8enc", "crf")
    assert after(desktops["nothing"], requests) == (20, 3000, "h264enc", "cbr")


def after(desktop: Streamed, requests: dict[str, Any]) -> tuple[Any, ...]:
    """The stream's settings after a client's requests: in its settings, and in messages of their
    own.
    """
    with desktop.opened() as browser:
        browser.page.goto("about:blank")
        with raw(browser, desktop.url) as wire:
            wire.send(
                "SETTINGS," + json.dumps({"displayId": "primary", "tabId": "raw"} | requests),
                "_arg_fps,8",
                "vb,500",
            )
        with raw(browser, desktop.url) as wire:
            found = json.loads(wire.reported("server_settings"))["settings"]
    return tuple(found[name].get("default", found[name]["value"]) for name in requests)
