"""The desktop image's own agent, for files of a home, as the agent of a stage's desktop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.desktop_key import tokens_of
from unit.gateway.portal_stage import PortalStage
from unit.images.image_scripts import port_of, serve_agent
from vdi.gateway.desktop.agent import DesktopAgent


def point(stage: PortalStage, port: int) -> None:
    """Let the stage ask the agent on this port."""
    stage.agent.real = DesktopAgent(stage.edge.tables.key, lambda _: f"http://127.0.0.1:{port}")


@contextmanager
def files_agent(
    stage: PortalStage, home: Path, name: str = "alice-desktop", **services: Any
) -> Iterator[None]:
    """Serve this home, and these services, while the context lasts."""
    with serve_agent(tokens_of(name).agent, home=home, **services) as server:
        point(stage, port_of(server))
        yield
