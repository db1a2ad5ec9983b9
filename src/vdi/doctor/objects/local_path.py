"""Rancher's local-path provisioner: the script by which it makes the folder of each volume. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

CONFIG = "local-path-config"
"""Its ConfigMap, beside its Deployment."""
_DEPLOYMENT = "local-path-provisioner"
_MODE = re.compile(
    r"(?P<command>\bmkdir\b[^\n]*?-m\s*|\bchmod\s+(?:-R\s+)?)(?P<mode>0?[0-7]{3})"
    r"(?=\s[^\n]*\$\{?(?:VOL_DIR|absolutePath)\}?[\"']?\s*$)",
    re.MULTILINE,
)
"""A mode that is given to the volume's own folder. That of its parent (`$VOL_DIR/..`) may well be 0700."""


def namespaces_of(objects: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Where the provisioner runs."""
    found = (deployment["metadata"] for deployment in objects.get("deployments", ()))
    return sorted({meta["namespace"] for meta in found if meta["name"] == _DEPLOYMENT})


def read_closed_modes(script: str) -> list[str]:
    """Modes with which a desktop's user, or a database's, cannot write to a new volume."""
    return [match["mode"] for match in _MODE.finditer(script) if _is_closed(match["mode"])]


def open_modes(script: str) -> str:
    """The script with the mode of K3s, 0777, in the place of those."""
    return _MODE.sub(lambda match: match["command"] + ("0777" if _is_closed(match["mode"]) else match["mode"]), script)


def _is_closed(mode: str) -> bool:
    """fsGroup has no effect on hostPath volumes: what others may is what a container may that does not run as root."""
    return not mode.endswith("7")
