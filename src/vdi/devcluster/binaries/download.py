"""Official releases, downloaded and compared with their published checksum.

A host that cannot be reached is remembered, so that a machine without a way to the internet waits
once and not for every file. `VDI_DOWNLOAD_MIRROR` names a server that holds the files under the
names of their hosts (`$VDI_DOWNLOAD_MIRROR/dl.k8s.io/...`). The usual proxy variables count.
"""

import contextlib
import functools
import hashlib
import http.client
import os
import re
import socket
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from shutil import copyfileobj
from urllib.parse import urlsplit

from vdi.devcluster.binaries.components import Download
from vdi.devcluster.build_cache import SourceFailed
from vdi.devcluster.progress import Progress, Step

# How long a host may take to answer for the first time: name, connection, TLS and the checksum
# file.
CONNECT_SECONDS = 5.0

# How long a running download may stand still.
READ_SECONDS = 30.0

_BLOCK = 1 << 18
_LARGEST_CHECKSUM_FILE, _LARGEST_DOWNLOAD = 1 << 20, 1 << 30
_SHA256 = re.compile(r"^([0-9a-fA-F]{64})(?:\s+\*?(?:\./)?(\S+))?\s*$", re.MULTILINE)


class Downloader:
    """Downloads for one run; it remembers until the run's end which hosts could not be reached.

    The memory is behind one lock per host, so that of many downloads only the first one waits for a
    host that is away.
    """

    def __init__(
        self,
        progress: Progress,
        env: Mapping[str, str],
        *,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._progress = progress
        self._mirror = env.get("VDI_DOWNLOAD_MIRROR", "").rstrip("/")
        self._connect_seconds = connect_seconds
        self._away: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def address(self, url: str) -> str:
        """The address that is requested for `url`: the mirror's copy, when there is a mirror."""
        if self._mirror:
            return f"{self._mirror}/{url.removeprefix('https://')}"
        return url

    def published_checksum(self, recipe: Download, arch: str) -> str:
        """The SHA-256 that is published for the file; fails fast without a way to the host. Raises
        SourceFailed.
        """
        url = recipe.url.format(arch=arch)
        if recipe.checksum.startswith("sha256:"):
            self._first_answer(self.address(url), method="HEAD")
            return recipe.checksum.removeprefix("sha256:")
        address = self.address(recipe.checksum.format(arch=arch))
        text = self._first_answer(address).decode(errors="replace")
        return find_checksum(text, Path(urlsplit(url).path).name, address)

    def fetch(self, recipe: Download, arch: str, sha256: str, step: Step, into: Path) -> None:
        """Download, compare, unpack. Raises SourceFailed; what it left in `into` is worthless
        then.
        """
        address = self.address(recipe.url.format(arch=arch))
        file = into / (
            f".{recipe.key}.part" if recipe.members else next(iter(recipe.provides.values()))
        )
        actual = self._download(address, file, step)
        if actual != sha256:
            file.unlink()
            raise SourceFailed(
                f"{address}: its SHA-256 is {actual}, but {sha256} is published; the file was"
                " deleted"
            )
        if not recipe.members:
            file.chmod(0o755 if file.suffix != ".yaml" else 0o644)
            return
        members = {member.format(arch=arch): target for member, target in recipe.members.items()}
        unpack(file, members, into)
        file.unlink()

    def _download(self, address: str, file: Path, step: Step) -> str:
        digest = hashlib.sha256()
        done, total = 0, 0
        try:
            with (
                urllib.request.urlopen(address, timeout=READ_SECONDS) as answer,  # noqa: S310 - https or the user's mirror
                file.open("wb") as out,
            ):
                total = int(answer.headers.get("Content-Length") or 0)
                with self._progress.ended_by(functools.partial(_hang_up, answer)):
                    while done <= _LARGEST_DOWNLOAD and (block := answer.read(_BLOCK)):
                        out.write(block)
                        digest.update(block)
                        done += len(block)
                        step.update(
                            f"{done / 1e6:.1f} of {total / 1e6:.1f} MB",
                            done=done,
                            total=total or None,
                        )
        except urllib.error.HTTPError as error:
            error.close()
            raise SourceFailed(f"{address}: {_reason(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            self._progress.raise_if_cancelled()
            raise SourceFailed(f"{address}: {_reason(error)}") from error
        self._progress.raise_if_cancelled()
        if done > _LARGEST_DOWNLOAD:
            raise SourceFailed(f"{address}: is larger than {_LARGEST_DOWNLOAD} bytes")
        if done < total:
            raise SourceFailed(f"{address}: the connection ended after {done} of {total} bytes")
        return digest.hexdigest()

    def _first_answer(self, address: str, method: str = "GET") -> bytes:
        """The answer to a small request, and the memory of a host that gives none."""
        host = urlsplit(address).netloc
        with self._guard:
            lock = self._locks.setdefault(host, threading.Lock())
        with lock:
            if host in self._away:
                raise SourceFailed(self._away[host])
            try:
                return self._ask(address, method)
            except urllib.error.HTTPError as error:
                error.close()
                raise SourceFailed(f"{address}: {_reason(error)}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._away[host] = f"{host} cannot be reached: {_reason(error)}"
                raise SourceFailed(self._away[host]) from error

    def _ask(self, address: str, method: str) -> bytes:
        """In a thread of its own: the system's look-up of a name has no time limit, and Ctrl-C must
        not wait for it.
        """
        answer: Future[bytes] = Future()

        def ask() -> None:
            try:
                request = urllib.request.Request(address, method=method)  # noqa: S310 - https or the user's mirror
                with urllib.request.urlopen(request, timeout=self._connect_seconds) as response:  # noqa: S310
                    answer.set_result(response.read(_LARGEST_CHECKSUM_FILE))
            except Exception as error:  # handed to the caller, whatever it is
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        deadline = time.monotonic() + self._connect_seconds + 1
        while time.monotonic() < deadline:
            if wait([answer], timeout=0.1).done:
                return answer.result()
            self._progress.raise_if_cancelled()
        raise TimeoutError(f"no response within {self._connect_seconds:.0f} s")


def find_checksum(text: str, file: str, address: str) -> str:
    """The SHA-256 of `file` in a checksum file, or its only one if it names no file. Raises
    SourceFailed.
    """
    sums = _SHA256.findall(text)
    for digest, name in sums:
        if name == file or (not name and len(sums) == 1):
            return str(digest).lower()
    raise SourceFailed(f"{address}: contains no SHA-256 of {file}")


def unpack(archive: Path, members: Mapping[str, str], into: Path) -> None:
    """Take the named members, as executables, out of a tar archive. Raises SourceFailed when one is
    missing.
    """
    try:
        with tarfile.open(archive) as tar:
            for member, target in members.items():
                source = tar.extractfile(member)
                if source is None:
                    raise SourceFailed(f"the archive's member {member} is not a file")
                path = into / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with source, path.open("wb") as out:
                    copyfileobj(source, out)
                path.chmod(0o755)
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise SourceFailed(f"the archive cannot be unpacked: {error}") from error


def _hang_up(answer: http.client.HTTPResponse) -> None:
    """End a download that another thread is reading: closing it here would wait for that thread."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.socket(fileno=os.dup(answer.fileno())) as connection,
    ):
        connection.shutdown(socket.SHUT_RDWR)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server responded with {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
