"""The programs of the desktop image as modules, with or without `.py` in their names."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest


def load_script(script: Path) -> ModuleType:
    """A new module of it; leaves no bytecode beside the script, from where that would get into the image."""
    loader = SourceFileLoader(script.stem.replace("-", "_"), str(script))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
    return module
