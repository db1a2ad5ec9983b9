"""Files without a name, which the launcher, Selkies and vdi-agent hand to each other as
descriptors.

The programs of the desktop's user have the same uid: they could open, replace or cut a file with a
name. A descriptor of a process that forbids inspection (process_secrets.py) they cannot get: its
/proc/PID/fd belongs to root, and pidfd_getfd needs the right to trace it.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

INPUT_FD, RECORDINGS_FD = "VDI_INPUT_FD", "VDI_RECORDINGS_FD"
"""Variables that name inherited descriptors: the memory of last_input.py, and one end of a pair of sockets on which
vdi-agent hands each recording's file to Selkies."""
RECORDING_FOLDER = "/tmp"  # noqa: S108 - the file has no name in it


def create_handed_files(input_memory: int) -> dict[str, dict[str, int]]:
    """The descriptors that Selkies and vdi-agent inherit, by program and variable. The launcher
    keeps them open.
    """
    recordings, recorder = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    # For both programs, too: send_fds and recv_fds drop their flags.
    for end in (recordings, recorder):
        end.setblocking(False)
    return {
        "vdi-agent": {INPUT_FD: input_memory, RECORDINGS_FD: recordings.detach()},
        "selkies": {INPUT_FD: input_memory, RECORDINGS_FD: recorder.detach()},
    }


def inherited(name: str) -> int:
    """The descriptor that this variable names; children of this process do not get it. Raises
    LookupError.
    """
    descriptor = int(os.environ.pop(name))
    os.set_inheritable(descriptor, False)
    return descriptor


def hand_over_recording(recordings: socket.socket) -> int:
    """A new file, of which Selkies gets a descriptor too. Raises OSError.

    The folder is fixed: a user who could choose it would choose a file system where no file is
    without a name.
    """
    file = os.open(RECORDING_FOLDER, os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        socket.send_fds(recordings, [b"recording"], [file])
    except BaseException:
        os.close(file)
        raise
    return file


class HandedRecording:
    """Has Selkies' recorder write into the file that vdi-agent has handed over.

    The recorder opens a path, of a file that has one name. It gets an empty file there, and then
    another under the same descriptor: what others do to the empty one cannot change a recording.

    Args:
        start, stop: pixelflux' functions.
    """

    def __init__(
        self,
        recordings: socket.socket,
        folder: Path,
        start: Callable[..., Any],
        stop: Callable[[], Any],
    ) -> None:
        self._recordings = recordings
        self._path = folder / "recording"
        self._start = start
        self._stop = stop

    def start(self, _path: str, settings: Any = None, audio_socket: str = "") -> Any:
        """As pixelflux.start_recording. Raises RuntimeError."""
        recording = self._newest()
        empty = -1
        try:
            self._path.unlink(missing_ok=True)
            empty = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            status = self._start(str(self._path), settings, audio_socket)
            if not self._replace(empty, recording):
                self._stop()
                raise RuntimeError(
                    "the recorder has not written into the file that vdi-agent has handed over"
                )
        except OSError as error:
            raise RuntimeError(f"the recording's file cannot be prepared: {error}") from error
        else:
            return status
        finally:
            self._path.unlink(missing_ok=True)
            for file in (recording, empty):
                if file >= 0:
                    os.close(file)

    def _replace(self, empty: int, recording: int) -> bool:
        """Whether the recorder has the recording's file now, and had written nothing before."""
        recorder = [file for file in _descriptors_of(empty) if file != empty]
        written = 0
        for file in recorder:
            # The recorder's own position tells what it has written. The size of the empty file does
            # not: others can have opened that file by its name, and cut off the beginning without
            # which no recording can be played.
            opened = os.dup(file)
            os.dup2(recording, file, inheritable=False)
            written += os.lseek(opened, 0, os.SEEK_CUR)
            os.close(opened)
        return bool(recorder) and not written

    def _newest(self) -> int:
        recording = -1
        while True:
            try:
                _, files, _, _ = socket.recv_fds(self._recordings, 16, 1)
            except BlockingIOError:
                break
            if recording >= 0:  # it was never begun
                os.close(recording)
            recording = files[0]
            os.set_inheritable(recording, False)
        if recording < 0:
            raise RuntimeError("vdi-agent has handed over no file for a recording")
        return recording


def _descriptors_of(file: int) -> list[int]:
    """The descriptors of this process that are of the same file."""
    same, wanted = [], os.fstat(file)
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # it was the folder's own
            if os.path.samestat(os.fstat(int(entry.name)), wanted):
                same.append(int(entry.name))
    return same
