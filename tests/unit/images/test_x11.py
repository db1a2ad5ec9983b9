"""The X protocol that vdi-agent speaks: with the server itself, not with what lies in its
folder.
"""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from unit.images.image_scripts import load_library

NUMBER = 77_531


def accept_and_close(server: socket.socket) -> None:
    server.accept()[0].close()


@pytest.mark.timeout(30)
def test_screen_is_asked_of_the_server_that_has_the_address(tmp_path: Path) -> None:
    """A server in the place of the socket in the folder would tell of a smaller screen, and the
    recording show a corner.
    """
    x11: Any = load_library("x11")
    authority = tmp_path / "Xauthority"
    authority.write_bytes(bytes(16))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0/tmp/.X11-unix/X{NUMBER}")
        server.listen()
        hang_up = threading.Thread(target=accept_and_close, args=[server], daemon=True)
        hang_up.start()
        with pytest.raises((x11.UnknownError, ConnectionError), match=r"hung up|reset|Broken pipe"):
            x11.connect(f":{NUMBER}", authority)
        hang_up.join(10)
        assert not hang_up.is_alive()
