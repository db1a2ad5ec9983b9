"""The desktop image's own agent, for files of a home, as the agent of a stage's desktop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from support.desktop_key import tokens_of
from unit.devcluster.image_scripts import load_script
from unit.devcluster.test_images_agent import AGENT
from unit.gateway.portal_stage import PortalStage
from vdi.gateway.desktop.agent import DesktopAgent


def point(stage: PortalStage, port: int) -> None:
    """Let the stage ask the agent on this port."""
    stage.agent.real = DesktopAgent(stage.edge.tables.key, lambda _: f"http://127.0.0.1:{port}")


@contextmanager
def files_agent(stage: PortalStage, home: Path, name: str = "alice-desktop") -> Iterator[Any]:
    """Serve this home while the context lasts; yields the handler."""
    agent = load_script(AGENT)
    agent.Handler.digest, agent.Handler.home = (
        sha256(tokens_of(name).agent.encode()).hexdigest(),
        home,
    )
    with agent.BoundedServer(("127.0.0.1", 0), agent.Handler) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        point(stage, server.server_address[1])
        yield agent.Handler
        server.shutdown()
