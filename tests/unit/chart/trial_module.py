"""The programs of `helm test`, which lie in the chart and not in a package:
charts/vdi/files/network.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[3] / "charts/vdi/files/network"


def _load(name: str) -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


probe = _load("probe")
trial = _load("trial")
