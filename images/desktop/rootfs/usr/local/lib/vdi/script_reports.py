"""What became of the start-up scripts: vdi-desktop writes it into files, vdi-agent reads them.

    FOLDER/0  {"source": "template", "state": "Ended", "exitCode": 0, "output": "its last lines"}

What a script writes goes to the container's log as before; the last `KEPT_BYTES` of it are kept.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = "startup-scripts"
"""Below the runtime directory."""
KEPT_BYTES = 4096
# Read at once, so that a script that writes without end holds up nothing.
_CHUNK_BYTES, _CHUNKS = 1 << 16, 16


class ScriptReport:
    """One script."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.report: dict[str, Any] = {"source": source, "state": "Running"}
        self.output = b""
        self.pipe: int | None = None

    def open(self) -> int:
        """The end of a pipe for the script to write to; the caller closes it."""
        self.pipe, end = os.pipe()
        os.set_blocking(self.pipe, False)
        self._write()
        return end

    def drain(self) -> None:
        """Pass on what the script has written."""
        if self.pipe is None:
            return
        before = self.output
        with contextlib.suppress(BlockingIOError):
            for _ in range(_CHUNKS):
                chunk = os.read(self.pipe, _CHUNK_BYTES)
                if not chunk:
                    os.close(self.pipe)
                    self.pipe = None
                    break
                sys.stdout.buffer.write(chunk)
                self.output = (self.output + chunk)[-KEPT_BYTES:]
        if self.output != before:
            sys.stdout.flush()
            self._write()

    def end(self, code: int) -> None:
        """It has ended; programs that it has left behind may go on writing."""
        self.drain()
        # As a shell reports a signal.
        self.report |= {"state": "Ended", "exitCode": code if code >= 0 else 128 - code}
        self._write()

    def fail(self, reason: str) -> None:
        """It could not be started."""
        self.report |= {"state": "NotStarted"}
        self.output = reason.encode()
        self._write()

    def _write(self) -> None:
        text = self.output.decode(errors="replace")
        unfinished = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk is not the end of the desktop
            self.path.parent.mkdir(exist_ok=True)
            unfinished.write_text(json.dumps({**self.report, "output": text}))
            unfinished.replace(self.path)


def read_reports(folder: Path) -> list[Any]:
    """Those that there are, in the order of the scripts. Raises ValueError and OSError for what
    cannot be read.
    """
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]"))]
