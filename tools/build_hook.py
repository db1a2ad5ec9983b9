"""Hatch's build hook: the wheel carries the chart and the manifests, with the package's version
written into them, and the pages for users that the portal shows.

In the sources they have the version 0.0.0-dev, so that generated files do not change with each
commit.
"""

import atexit
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.version import Version

# The version of chart and manifests in the sources.
SOURCE_VERSION = "0.0.0-dev"
FOLDERS = ("charts/vdi", "manifests", "docs/use")
_TARGET = "vdi/files"
_PRE_RELEASES = {"a": "alpha", "b": "beta", "rc": "rc"}


def semantic_version(text: str) -> str:
    """The version of the package as charts, images and tags write it: 0.2.0rc1 is 0.2.0-rc.1."""
    version = Version(text)
    core = ".".join(str(number) for number in (*version.release, 0, 0)[:3])
    parts = [_PRE_RELEASES[version.pre[0]], str(version.pre[1])] if version.pre else []
    if version.dev is not None:
        parts += ["dev", str(version.dev)]
    if version.local:  # not after a +, which labels of objects and tags of images may not have
        parts.append(version.local)
    return "-".join([core, ".".join(parts)] if parts else [core])


def stamp(folder: Path, version: str) -> None:
    """Replace the sources' version by `version` in each YAML file below `folder`."""
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text()
        stamped = re.sub(rf"\b{re.escape(SOURCE_VERSION)}\b", version, text)
        if stamped != text:
            path.write_text(stamped)


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the folders to the wheel, with the version stamped."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable installation reads the checkout's own files."""
        if version == "editable":
            return
        staged = Path(tempfile.mkdtemp(prefix="vdi-wheel-"))
        atexit.register(shutil.rmtree, staged, ignore_errors=True)
        for name in FOLDERS:
            shutil.copytree(Path(self.root) / name, staged / name)
            build_data["force_include"][str(staged / name)] = f"{_TARGET}/{name}"
        stamp(staged, semantic_version(self.metadata.version))
