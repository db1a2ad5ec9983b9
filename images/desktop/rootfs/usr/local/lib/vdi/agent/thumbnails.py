"""The small picture on the portal's card of this desktop."""

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from x11 import UnknownError

CAPTURE = str(Path(__file__).resolve().parents[1] / "capture-thumbnail")
CAPTURE_SECONDS = 4.0  # less than the gateway waits, so that it reads the reason


class Thumbnails:
    """Pictures of the screen, one at a time. None is kept."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._on_wayland = bool(env.get("WAYLAND_DISPLAY"))
        self._env = {"PATH": os.defpath}
        for name in ("DISPLAY", "XAUTHORITY"):
            if name in env:
                self._env[name] = env[name]
        self.lock = threading.Lock()

    def take(self) -> bytes:
        """A JPEG of the screen as it is now. Raises UnknownError."""
        if self._on_wayland:
            raise UnknownError(
                "the screen can't be captured: this desktop is on Wayland (streaming.display)"
            )
        if not self.lock.acquire(blocking=False):
            raise UnknownError("a picture of the screen is being taken already")
        try:
            done = subprocess.run(
                [CAPTURE], env=self._env, capture_output=True, timeout=CAPTURE_SECONDS, check=True
            )
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise UnknownError(f"the screen can't be captured: {reason}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnknownError(f"the screen can't be captured: {error}") from error
        finally:
            self.lock.release()
        return done.stdout
