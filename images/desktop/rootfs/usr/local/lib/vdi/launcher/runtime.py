"""The desktop's runtime directory: sockets, logs and decisions of its parts."""

import secrets
import shutil
import struct
from pathlib import Path

RUNTIME = Path("/tmp/.vdi")  # noqa: S108 - /tmp is the container's own
READY_FILE = "ready"  # there once Selkies may accept connections


def prepare_runtime() -> None:
    """A directory of our own below /tmp, also after a restart of the container in the same pod."""
    shutil.rmtree(RUNTIME, ignore_errors=True)
    for display in Path("/tmp").glob(".X*-lock"):  # noqa: S108
        display.unlink(missing_ok=True)
    RUNTIME.mkdir(mode=0o700)
    sockets = Path("/tmp/.X11-unix")  # noqa: S108
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o1777)
    # /etc/machine-id links here
    (RUNTIME / "machine-id").write_text(secrets.token_hex(16) + "\n")
    # X's authority file: one FamilyWild entry, so that no other container of the pod can draw or
    # listen.
    name, cookie = b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16)
    entry = struct.pack(">HHHH18sH16s", 0xFFFF, 0, 0, len(name), name, len(cookie), cookie)
    (RUNTIME / "Xauthority").write_bytes(entry)
