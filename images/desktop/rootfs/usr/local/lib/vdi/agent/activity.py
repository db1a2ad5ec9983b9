"""The report of a desktop's use, which the operator reads.

idleSeconds: since the last key, click or movement of a person (last_input.py), or of an agent whose
actions count as use. viewers: browsers that Selkies says are connected; connectedSeconds: since the
last of them came (null: none has been seen). graphics: what draws OpenGL and what encodes
(prove-graphics, prove-picture). recording: its state (recordings.py), where VDI_RECORDING is set.
memoryKillSeconds: since the kernel last killed a program for want of memory; absent if it has not.
workSeconds: since an agent's last action or command; absent if there was none.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from computer_use import Computer
from memory_use import MemoryWatch
from recordings import Recordings

from agent.viewers import Viewers


class Activity(NamedTuple):
    """Where each part of the report comes from."""

    runtime: Path
    viewers: Viewers
    computer: Computer
    recordings: Recordings
    memory: MemoryWatch

    def report(self) -> dict[str, Any]:
        """Raises UnknownError."""
        count, connected = self.viewers.look()
        report = {
            "idleSeconds": self.computer.idle(),
            "viewers": count,
            "connectedSeconds": connected,
        }
        if graphics := read_graphics(self.runtime):
            report["graphics"] = graphics
        if self.recordings.mode:
            report["recording"] = self.recordings.report()
        if kill_seconds := self.memory.kill_seconds():
            report["memoryKillSeconds"] = kill_seconds
        if (work_seconds := self.computer.work_seconds()) is not None:
            report["workSeconds"] = work_seconds
        return report


def read_graphics(runtime: Path) -> dict[str, Any] | None:
    """What draws and what encodes, as it was decided at the start; None before that."""
    try:
        drawn = json.loads((runtime / "graphics").read_text())
        encoded = json.loads((runtime / "picture").read_text())
        return {
            **{
                name: drawn[name] for name in ("display", "renderer", "device", "reason", "message")
            },
            "encoder": encoded["encoder"],
            "hardwareEncoder": encoded["hardware"],
            "encoderMessage": encoded["message"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
