"""From what the launcher has handed over to a port that answers."""

import os
import secrets
import socket
import threading
import time
from functools import partial
from pathlib import Path

from computer_use import Computer
from handed_files import INPUT_FD, RECORDINGS_FD, inherited
from last_input import read_input
from memory_use import MemoryWatch
from process_secrets import bind_port, forbid_inspection, inherited_sockets, read_secrets, sha256_of
from recordings import Recordings
from script_reports import FOLDER

from agent.activity import Activity
from agent.log import log
from agent.memory_notices import notify_kill, notify_short
from agent.notices import Notices
from agent.selkies_api import SelkiesApi
from agent.server import AgentServer, NoMark, Services
from agent.thumbnails import Thumbnails
from agent.transfers import Transfers
from agent.viewers import Viewers
from photon import Photon

_ANYWHERE = "0.0.0.0"  # noqa: S104 - the operator comes from outside the pod
_PORT = 8082


def main() -> int:
    """Serve until the desktop ends."""
    forbid_inspection()
    sockets = inherited_sockets()
    env = {**os.environ, **read_secrets()}
    digest = env.get("VDI_AGENT_TOKEN_SHA256", "")
    if not digest:
        log(
            "VDI_AGENT_TOKEN_SHA256 is not set: without a token no one may send requests, so the"
            " agent does not start"
        )
        return 1
    runtime, selkies = Path(env["XDG_RUNTIME_DIR"]), SelkiesApi(env)
    computer = Computer(env, partial(read_input, inherited(INPUT_FD)))
    photon = (
        NoMark() if env.get("WAYLAND_DISPLAY") else Photon(env["DISPLAY"], Path(env["XAUTHORITY"]))
    )
    viewers = Viewers(selkies, photon.covers)
    recordings = Recordings(env, selkies, socket.socket(fileno=inherited(RECORDINGS_FD)))
    notices = Notices(computer.env, lambda: time.time() - computer.idle())
    memory = MemoryWatch(partial(notify_kill, notices), partial(notify_short, notices))
    selkies_token = env.get("SELKIES_AUDIT_WEBHOOK_TOKEN") or secrets.token_hex(16)
    services = Services(
        digest=digest,
        transfers_digest=sha256_of(selkies_token),
        activity=Activity(runtime, viewers, computer, recordings, memory),
        notices=notices,
        photon=photon,
        thumbnails=Thumbnails(env),
        transfers=Transfers(),
        script_reports=runtime / FOLDER,
        home=Path(env["HOME"]),
        recordings=recordings,
        memory=memory,
        computer=computer,
    )
    watches = [viewers.watch, notices.watch, memory.watch]
    if recordings.mode:
        watches.append(recordings.watch)
    listeners = sockets or bind_port(_ANYWHERE, int(env.get("VDI_AGENT_PORT") or _PORT))
    first, *others = [AgentServer(listener, services) for listener in listeners]
    for run in (*watches, *(server.serve_forever for server in others)):
        threading.Thread(target=run, daemon=True).start()
    first.serve_forever()
    return 0
