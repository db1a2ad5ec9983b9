"""Files without a name, which the launcher, Selkies and vdi-agent hand to each other as descriptors.

The programs of the desktop's user have the same uid: they could open, replace or cut a file with a name. A descriptor
of a process that forbids inspection (process_secrets.py) they cannot get: its /proc/PID/fd belongs to root, and
pidfd_getfd needs the right to trace it.
"""

import os
import socket

INPUT_FD, FILMS_FD = "VDI_INPUT_FD", "VDI_FILMS_FD"
"""Variables that name inherited descriptors: the memory of last_input.py, and one end of a pair of sockets on which
vdi-agent hands each film's file to Selkies."""
FILM_FOLDER = "/tmp"  # noqa: S108 - the file has no name in it


def create_handed_files(input_memory: int) -> dict[str, dict[str, int]]:
    """The descriptors that Selkies and vdi-agent inherit, by program and variable. The launcher keeps them open."""
    films, recorder = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in (films, recorder):  # for both programs, too: send_fds and recv_fds drop their flags
        end.setblocking(False)
    return {
        "vdi-agent": {INPUT_FD: input_memory, FILMS_FD: films.detach()},
        "selkies": {INPUT_FD: input_memory, FILMS_FD: recorder.detach()},
    }


def inherited(name: str) -> int:
    """The descriptor that this variable names; children of this process do not get it. Raises LookupError."""
    descriptor = int(os.environ.pop(name))
    os.set_inheritable(descriptor, False)
    return descriptor


def hand_over_film(films: socket.socket) -> int:
    """A new file, of which Selkies gets a descriptor too. Raises OSError.

    The folder is fixed: a user who could choose it would choose a file system where no file is without a name.
    """
    file = os.open(FILM_FOLDER, os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        socket.send_fds(films, [b"film"], [file])
    except BaseException:
        os.close(file)
        raise
    return file


class HandedFilm:
    """The file of the last film that vdi-agent has handed over, for Selkies' recorder, which opens a path."""

    def __init__(self, films: socket.socket) -> None:
        self._films = films
        self._file = -1

    def path(self) -> str | None:
        """Path of the newest file; None: there is no other than the last time."""
        newest = -1
        while True:
            try:
                _, files, _, _ = socket.recv_fds(self._films, 16, 1)
            except BlockingIOError:
                break
            if newest >= 0:  # its film was never begun
                os.close(newest)
            newest = files[0]
        if newest < 0:
            return None
        os.set_inheritable(newest, False)
        if self._file >= 0:
            os.close(self._file)
        self._file = newest
        return f"/proc/self/fd/{newest}"
