"""The programs of the desktop image as modules, with or without `.py` in their names."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIBRARY = Path(__file__).resolve().parents[3] / "images/desktop/rootfs/usr/local/lib/vdi"


def load_library(name: str) -> Any:
    """A new module of the library that the programs share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(LIBRARY)])
        return load_script(LIBRARY / f"{name}.py")


def load_script(script: Path) -> ModuleType:
    """A new module of it; leaves no bytecode beside the script, from where that would get into the
    image.
    """
    loader = SourceFileLoader(script.stem.replace("-", "_"), str(script))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
    return module


@contextmanager
def serve_agent(agent: Any) -> Iterator[int]:
    """The port of this `vdi-agent`, whose token is `secret`."""
    agent.Handler.digest = sha256(b"secret").hexdigest()
    with agent.BoundedServer(("127.0.0.1", 0), agent.Handler) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield server.server_address[1]
        server.shutdown()
