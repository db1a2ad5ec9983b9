"""A file that appears whole under a name that no one has, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path


class NewFileError(Exception):
    """Raised when the file cannot be made, or its name was taken meanwhile; says so, with the
    name.
    """


@contextmanager
def new_file(path: Path) -> Iterator[FileIO]:
    """A file in the same folder that only its owner may read; it takes `path` at the end, and is
    gone after an error.

    Raises NewFileError.
    """
    with _in_words(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    made = Path(name)
    try:
        # Without a buffer: at the end of the program no thread may hold its lock.
        with FileIO(descriptor, "w+b") as stream:
            yield stream
            with _in_words(path):
                os.fsync(stream.fileno())
        with _in_words(path):
            _take_name(made, path)
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise NewFileError(f"{path} was created in the meantime") from error
    except OSError as error:
        raise NewFileError(f"{path} cannot be written: {error.strerror}") from error


def _take_name(made: Path, path: Path) -> None:
    # A hard link fails where the name exists, in one step. A rename would replace a file that
    # someone else has created while this one was written, and a check before it would leave a
    # moment in between.
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT and some network file systems have no hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            made.replace(path)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
