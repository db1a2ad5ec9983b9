"""The programs of the desktop image, with or without `.py` in their names, and the modules that
they share.
"""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIBRARY = Path(__file__).resolve().parents[3] / "images/desktop/rootfs/usr/local/lib/vdi"


def load_library(name: str) -> Any:
    """A module of the library that the programs share. Leaves no bytecode beside it, from where
    that would get into the image.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(sys, "path", [*sys.path, str(LIBRARY)])
        return import_module(name)


def load_script(name: str) -> ModuleType:
    """A new module of a program of the library."""
    loader = SourceFileLoader(name.replace("-", "_"), str(LIBRARY / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(sys, "path", [*sys.path])
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
    return module


@contextmanager
def serve_agent(token: str = "secret", **services: Any) -> Iterator[Any]:
    """A server of vdi-agent with these services alone, for callers with this token."""
    agent = load_library("agent.server")
    digest = sha256(token.encode()).hexdigest()
    computer = load_library("computer_use").Computer({}, lambda: (0.0, False))
    given = {"digest": digest, "transfers_digest": "", "computer": computer, **services}
    listener = socket.create_server(("127.0.0.1", 0))
    all_services = dict.fromkeys(agent.Services._fields) | given
    with agent.AgentServer(listener, agent.Services(**all_services)) as server:
        serve = {"poll_interval": 0.01}
        threading.Thread(target=server.serve_forever, kwargs=serve, daemon=True).start()
        yield server
        server.shutdown()


def port_of(server: Any) -> int:
    """The port on which a server listens."""
    return int(server.socket.getsockname()[1])
