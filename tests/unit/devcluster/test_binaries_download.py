"""Official releases from a server: checksum, archive, and every way in which a download goes
wrong.
"""

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from unit.devcluster.binaries_servers import Server, build_cache_in, leftovers, serving
from vdi.devcluster.binaries import BinaryUnavailable, Finder
from vdi.devcluster.binaries.components import RECIPES, Download
from vdi.devcluster.binaries.download import Downloader, find_checksum
from vdi.devcluster.build_cache import SourceFailed

TOOL = Download(
    key="tool-v1",
    title="download tool v1",
    provides={"tool": "tool"},
    url="https://dl.example/v1/{arch}/tool",
    checksum="https://dl.example/v1/{arch}/tool.sha256",
)
ARCHIVE = Download(
    key="pack-v1",
    title="download pack v1",
    provides={"one": "one", "two": "folder"},
    url="https://dl.example/pack_{arch}.tgz",
    checksum="https://dl.example/SHA256SUMS",
    members={"pack-{arch}/one": "one", "./two": "folder/two"},
)
TOOL_PATH, TOOL_SUM = "/dl.example/v1/amd64/tool", "/dl.example/v1/amd64/tool.sha256"
CONTENT = b"#!/bin/sh\necho tool\n" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def an_archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files = {TOOL_PATH: CONTENT, TOOL_SUM: sha256(CONTENT).encode()}
        yield running


def find(recipe: Download, name: str, server_url: str, folder: Path) -> Path:
    with build_cache_in(folder, VDI_DOWNLOAD_MIRROR=server_url) as (build_cache, _):
        return Finder(build_cache, {name: (recipe,)}).find(name)


def test_downloaded_program_is_complete_and_executable(server: Server, tmp_path: Path) -> None:
    path = find(TOOL, "tool", server.url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert os.access(path, os.X_OK)
    assert leftovers(tmp_path) == ["tool-v1-amd64", "tool-v1-amd64/tool"]


def test_only_the_members_of_an_archive_are_kept(server: Server, tmp_path: Path) -> None:
    packed = an_archive({"pack-amd64/one": b"1", "./two": b"2", "three": b"3"})
    server.files = {
        "/dl.example/pack_amd64.tgz": packed,
        "/dl.example/SHA256SUMS": (
            f"{'0' * 64}  pack_arm64.tgz\n{sha256(packed)}  pack_amd64.tgz\n".encode()
        ),
    }
    assert find(ARCHIVE, "two", server.url, tmp_path).is_dir()
    entry = tmp_path / "cache" / "pack-v1-amd64"
    assert sorted(str(path.relative_to(entry)) for path in entry.rglob("*")) == [
        "folder",
        "folder/two",
        "one",
    ]


def test_wrong_checksum_is_said_and_the_file_deleted(server: Server, tmp_path: Path) -> None:
    server.files[TOOL_SUM] = b"0" * 64
    with pytest.raises(BinaryUnavailable) as failure:
        find(TOOL, "tool", server.url, tmp_path)
    assert (
        f"its SHA-256 is {sha256(CONTENT)}, but {'0' * 64} is published; the file was deleted"
        in str(failure.value)
    )
    assert leftovers(tmp_path) == []


def test_download_without_an_end_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.devcluster.binaries.download._LARGEST_DOWNLOAD", len(CONTENT) - 1)
    with pytest.raises(
        BinaryUnavailable, match=f"{TOOL_PATH}: is larger than {len(CONTENT) - 1} bytes"
    ):
        find(TOOL, "tool", server.url, tmp_path)
    assert leftovers(tmp_path) == []


def test_connection_that_ends_early_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.cut.add(TOOL_PATH)
    with pytest.raises(
        BinaryUnavailable, match=f"the connection ended after 10000 of {len(CONTENT)} bytes"
    ):
        find(TOOL, "tool", server.url, tmp_path)
    assert leftovers(tmp_path) == []


def test_all_downloads_wait_once_for_a_silent_host(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        build_cache_in(tmp_path) as (build_cache, _),
    ):
        env = {"VDI_DOWNLOAD_MIRROR": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        downloader = Downloader(build_cache.progress, env, connect_seconds=0.1)
        reasons: list[str] = []

        def ask() -> None:
            with pytest.raises(SourceFailed) as failure:
                downloader.published_checksum(TOOL, "amd64")
            reasons.append(str(failure.value))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(reasons)) == 1
        assert "cannot be reached: timed out" in reasons[0]
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_interrupt_in_a_stalled_download_leaves_no_half_file(
    server: Server, tmp_path: Path
) -> None:
    recipe = next(recipe for recipe in RECIPES["kubectl"] if isinstance(recipe, Download))
    path = recipe.url.format(arch="amd64").removeprefix("https:/")
    server.files = {path: CONTENT, f"{path}.sha256": sha256(CONTENT).encode()}
    server.files |= {where.replace("amd64", "arm64"): what for where, what in server.files.items()}
    server.stalled = set(server.files) - {
        where for where in server.files if where.endswith(".sha256")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.binaries", "kubectl"],
        env={**os.environ, "VDI_DOWNLOAD_MIRROR": server.url, "VDI_CACHE": str(tmp_path / "cache")}
        | {"VDI_BINARIES": "", "KUBEBUILDER_ASSETS": "", "no_proxy": "*"},
        stderr=subprocess.PIPE,
    )
    assert server.stall_began.wait(40)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 130, said
    assert [path for path in leftovers(tmp_path) if not path.startswith("logs")] == []
    assert b"Traceback" not in said


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "text",
    [
        DIGEST,
        f"{DIGEST.upper()}\n",
        f"{DIGEST}  tool.tgz\n",
        f"{DIGEST} *tool.tgz",
        f"{DIGEST}  ./tool.tgz",
        f"{'0' * 64}  other.tgz\n{DIGEST}  tool.tgz\n",
        (
            f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{DIGEST} *tool.tgz\n-----BEGIN"
            " PGP SIGNATURE-----\nabc\n"
        ),
    ],
)
def test_checksum_is_found_in_every_form_that_projects_publish(text: str) -> None:
    assert find_checksum(text, "tool.tgz", "https://dl.example/sums") == DIGEST


@pytest.mark.parametrize(
    "text", ["", "<html>sign in</html>", f"{DIGEST}  other.tgz", f"{DIGEST}\n{DIGEST}\n"]
)
def test_file_that_holds_no_checksum_of_ours_is_refused(text: str) -> None:
    with pytest.raises(
        SourceFailed, match=r"https://dl\.example/sums: contains no SHA-256 of tool\.tgz"
    ):
        find_checksum(text, "tool.tgz", "https://dl.example/sums")


def test_table_downloads_only_over_https_from_official_hosts() -> None:
    official = {"dl.k8s.io", "github.com", "get.helm.sh", "raw.githubusercontent.com"}
    downloads = [
        recipe for recipes in RECIPES.values() for recipe in recipes if isinstance(recipe, Download)
    ]
    addresses = {download.url for download in downloads} | {
        download.checksum for download in downloads if "//" in download.checksum
    }
    assert {urlsplit(address).scheme for address in addresses} == {"https"}
    assert {urlsplit(address).netloc for address in addresses} == official
