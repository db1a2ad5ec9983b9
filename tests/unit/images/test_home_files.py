"""Files of the home through `vdi-agent`: what the user could not read is never given out, nothing
is replaced.
"""

import io
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import pytest

from support.waiting import PATIENCE
from unit.images.image_scripts import load_library, port_of, serve_agent


@pytest.fixture
def home_files() -> Any:
    return load_library("home_files")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Secret things beside it, and all kinds of entries in it."""
    (tmp_path / "secret").write_text("hidden from the user")
    home = tmp_path / "home"
    (home / "Desktop/sub").mkdir(parents=True)
    (home / "Desktop/report.txt").write_text("report")
    (home / "Desktop/sub/a\\b.txt").write_text("below")
    (home / ".hidden").write_text("h")
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "folder-link").symlink_to(tmp_path)
    (home / "self").symlink_to("/proc/self")
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
    (home / os.fsdecode(b"caf\xe9 \n.txt")).write_bytes(b"latin")
    return home


@pytest.fixture
def port(home: Path) -> Iterator[int]:
    with serve_agent(home=home) as server:
        yield port_of(server)


def ask(port: int, method: str, where: str, path: str = "", **options: Any) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"Authorization": "Bearer secret"} | options.pop("headers", {})
    try:
        connection.request(method, f"{where}?{path}", headers=headers, **options)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_folders_come_first_and_hidden_entries_last(port: int) -> None:
    status, body = ask(port, "GET", "/files")
    folder = json.loads(body)
    assert status == 200
    assert [(entry["name"], entry["kind"]) for entry in folder["entries"]] == [
        ("Desktop", "folder"),
        ("caf%E9%20%0A.txt", "file"),
        *((name, "other") for name in ("folder-link", "link", "pipe", "self", "socket")),
        (".hidden", "file"),
    ]
    assert 0 < folder["usedBytes"] < folder["sizeBytes"]
    assert not folder["isCut"]
    assert ask(port, "GET", "/files", headers={"Authorization": "Bearer wrong"})[0] == 401


def test_a_long_folder_is_cut_and_says_so(
    home_files: Any, port: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_files, "MAX_ENTRIES", 3)
    folder = json.loads(ask(port, "GET", "/files")[1])
    assert (len(folder["entries"]), folder["isCut"]) == (3, True)


@pytest.mark.parametrize("where", ["/files", "/files/content"])
@pytest.mark.parametrize(
    "path",
    [
        "link", "folder-link", "folder-link/secret", "self/environ", "pipe", "socket", "missing", "..", "../secret",
        "Desktop/../../secret", "Desktop/%2e%2e/%2e%2e/secret", "Desktop%2F..%2F..%2Fsecret", "./.", "%00", "a%00b",
        "n" * 300, "Desktop/report.txt/x",
    ],
)  # fmt: skip
def test_no_path_leaves_the_home_or_follows_a_link(port: int, where: str, path: str) -> None:
    status, body = ask(port, "GET", where, path)
    assert status in (404, 409), body
    assert b"hidden from the user" not in body


@pytest.mark.parametrize("path", ["proc/self/environ", "proc", "proc/self/maps"])
def test_the_agents_own_memory_is_refused_in_any_home(path: str) -> None:
    with serve_agent(home=Path("/")) as server:
        assert ask(port_of(server), "GET", "/files/content", path)[0] == 409


def test_a_link_put_in_place_of_a_checked_folder_is_not_followed(
    home_files: Any, port: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = home_files._opened

    @contextmanager
    def swap(name: Any, folder: int | None = None) -> Iterator[int]:
        with opened(name, folder) as found:
            if name == b"Desktop":
                (home / "Desktop").rename(home / "moved")
                (home / "Desktop").symlink_to(home.parent)
            yield found

    (home / "Desktop/secret").write_text("of the user")
    monkeypatch.setattr(home_files, "_opened", swap)
    assert ask(port, "GET", "/files/content", "Desktop/secret") == (200, b"of the user")
    assert ask(port, "GET", "/files/content", "Desktop/secret")[0] == 409


def test_a_file_of_any_name_comes_as_it_is(port: int, home: Path) -> None:
    assert ask(port, "GET", "/files/content", "Desktop/report.txt") == (200, b"report")
    assert ask(port, "GET", "/files/content", "caf%E9%20%0A.txt") == (200, b"latin")
    (home / "empty").touch()
    assert ask(port, "GET", "/files/content", "empty") == (200, b"")


def test_a_zip_has_regular_files_only_and_no_backslash(port: int) -> None:
    status, body = ask(port, "GET", "/files/content")
    with ZipFile(io.BytesIO(body)) as archive:
        assert sorted(archive.namelist()) == [
            ".hidden",
            "Desktop/report.txt",
            "Desktop/sub/a_b.txt",
            "caf� \n.txt",
        ]
        assert archive.read("Desktop/sub/a_b.txt") == b"below"
        assert archive.testzip() is None
    assert status == 200


@pytest.mark.parametrize("limit", ["MAX_ZIP_FILES", "MAX_ZIP_BYTES"])
def test_a_folder_that_is_too_large_is_no_zip(
    home_files: Any, port: int, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(home_files, limit, 1)
    status, body = ask(port, "GET", "/files/content")
    assert (status, b"too large" in body) == (409, True)


def test_a_new_file_replaces_nothing_and_follows_no_link(port: int, home: Path) -> None:
    assert ask(port, "PUT", "/files", quote("Desktop/neu ä.bin"), body=b"\x00new") == (200, b"{}")
    new = home / "Desktop/neu ä.bin"
    assert (new.read_bytes(), stat.S_IMODE(new.stat().st_mode) & 0o133) == (b"\x00new", 0)
    for path in ("Desktop/report.txt", "Desktop/sub", "link", "self", "."):
        assert ask(port, "PUT", "/files", path, body=b"x")[0] == 409, path
    for path in ("..%2Fout", "folder-link/out", "missing/out", "", "n" * 300, "%00"):
        assert ask(port, "PUT", "/files", path, body=b"x")[0] in (404, 409), path
    assert (home / "Desktop/report.txt").read_text() == "report"
    assert not (home.parent / "out").exists()


def test_an_upload_that_breaks_off_or_does_not_fit_leaves_nothing(port: int, home: Path) -> None:
    too_much = {"headers": {"Content-Length": str(1 << 60)}}
    assert ask(port, "PUT", "/files", "big", **too_much)[0] == 409
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"PUT /files?part HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Length:"
            b" 9\r\n\r\nhalf"
        )
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).startswith(b"HTTP/1.1 409")
    assert not {"big", "part"} & {entry.name for entry in home.iterdir()}


def test_a_folder_is_made_and_an_entry_moved_without_replacing(port: int, home: Path) -> None:
    assert ask(port, "MKCOL", "/files", "Desktop/new") == (200, b"{}")
    for old, new in (
        ("Desktop/report.txt", "Desktop/new/r%26.txt"),
        ("Desktop/new", "moved"),
        ("link", "link2"),
    ):
        assert ask(port, "MOVE", "/files", f"{old}&{new}") == (200, b"{}")
    assert (home / "moved/r&.txt").read_text() == "report" and (home / "link2").is_symlink()
    (home / "Desktop/keep").write_text("kept")
    (home / "empty").mkdir()
    for old, new in (
        ("moved/r%26.txt", "Desktop/keep"), ("moved/r%26.txt", "link2"), ("moved", "empty"), ("moved", "moved"),
        ("moved", "moved/below"), ("moved", "Desktop/keep"),
    ):  # fmt: skip
        assert ask(port, "MOVE", "/files", f"{old}&{new}")[0] == 409, (old, new)
    assert [entry.name for entry in (home / "moved").iterdir()] == ["r&.txt"]
    assert (home / "Desktop/keep").read_text() == "kept" and (home / "empty").is_dir()


BAD = (
    "", ".", "..", "Desktop/..", "Desktop/", "../out", "Desktop%2F..%2F..%2Fsecret", "folder-link/secret",
    "self/fd", "Desktop/report.txt/x", "%00", "n" * 300, "missing/x",
)  # fmt: skip


@pytest.mark.parametrize("path", BAD)
def test_no_change_leaves_the_home_or_is_of_the_home(port: int, home: Path, path: str) -> None:
    before = sorted(home.parent.rglob("*"))
    requests = (
        ("MKCOL", path),
        ("DELETE", path),
        ("MOVE", f"{path}&x"),
        ("MOVE", f"Desktop&{path}"),
    )
    for method, query in requests:
        assert ask(port, method, "/files", query)[0] in (404, 409), (method, query)
    assert sorted(home.parent.rglob("*")) == before
    wrong = {"headers": {"Authorization": "Bearer wrong"}}
    assert ask(port, "DELETE", "/files", "Desktop", **wrong)[0] == 401


def test_a_deleted_folder_takes_what_is_in_it_and_no_target_of_a_link(
    home_files: Any, port: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "Desktop/sub/out").symlink_to(home.parent)
    assert ask(port, "DELETE", "/files", "folder-link") == (200, b"{}")
    with monkeypatch.context() as patch:
        patch.setattr(home_files, "MAX_DELETED", 3)
        status, body = ask(port, "DELETE", "/files", "Desktop")
        assert (status, b"more than 3 entries" in body) == (409, True)
    assert (home / "Desktop/report.txt").exists()
    assert ask(port, "DELETE", "/files", "Desktop") == (200, b"{}")
    assert not (home / "Desktop").exists() and (home.parent / "secret").exists()


def test_a_folder_with_another_volume_in_it_is_not_deleted(
    home_files: Any, port: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat, inode = os.fstat, (home / "Desktop/sub").stat().st_ino

    def of_team(opened: int) -> Any:
        found = fstat(opened)
        return os.stat_result([*found[:2], -1, *found[3:10]]) if found.st_ino == inode else found

    monkeypatch.setattr(home_files, "os", SimpleNamespace(**vars(os) | {"fstat": of_team}))
    status, body = ask(port, "DELETE", "/files", "Desktop")
    assert (status, b"another volume" in body) == (409, True)
    assert (home / "Desktop/sub").exists()


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("DELETE", "Desktop/secret"),
        ("MKCOL", "Desktop/new"),
        ("MOVE", "Desktop/secret&Desktop/new"),
    ],
)
def test_a_folder_swapped_during_a_change_is_not_followed(
    home_files: Any, port: int, home: Path, monkeypatch: pytest.MonkeyPatch, method: str, query: str
) -> None:
    opened = home_files._opened

    @contextmanager
    def swap(name: Any, folder: int | None = None) -> Iterator[int]:
        with opened(name, folder) as found:
            if name == b"Desktop" and not (home / "moved").exists():
                (home / "Desktop").rename(home / "moved")
                (home / "Desktop").symlink_to(home.parent)
            yield found

    (home / "Desktop/secret").write_text("of the user")
    monkeypatch.setattr(home_files, "_opened", swap)
    ask(port, method, "/files", query)
    assert (home.parent / "secret").read_text() == "hidden from the user"
    assert sorted(entry.name for entry in home.parent.iterdir()) == ["home", "secret"]
