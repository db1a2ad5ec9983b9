"""Kubeconfigs of accounts that are not the administrator."""

from pathlib import Path

import yaml


def write_kubeconfig(administrator: Path, token: str, file: Path) -> Path:
    """Write the administrator's kubeconfig with this token as its only credential to `file`."""
    config = yaml.safe_load(administrator.read_text())
    config["users"] = [
        {"name": user["name"], "user": {"token": token.strip()}} for user in config["users"]
    ]
    file.write_text(yaml.safe_dump(config))
    return file
