"""Random values for the Secrets of the servers that the chart brings: PostgreSQL, Redis, coturn.

The chart renders these Secrets without `data`: two renders with the same values are equal, and no
upgrade changes a password. The gateway's init container, `python -m vdi.gateway.server_secrets`,
draws each value once and derives the texts that contain it.
"""

import asyncio
import base64
import os
import secrets
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from vdi.kube.config import load_config
from vdi.kube.errors import Conflict, KubeError
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client

VARIABLE = "VDI_SERVER_SECRETS"
# PostgreSQL's URL, redis.conf and turnserver.conf take these characters without quoting.
_ALPHABET = string.ascii_letters + string.digits


class ServerSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The required content of one Secret."""

    name: str
    # Length of a random value by key. A value that exists is kept.
    random: dict[str, int]
    # Text by key; `{KEY}` is replaced by the value of that random key.
    text: dict[str, str] = {}
    # Key by the file that gets its value. A volume of the Secret would hold the pod back until the
    # key exists.
    files: dict[str, str] = {}


class _Metadata(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")


class _Secret(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


def missing_entries(
    required: ServerSecret, existing: Mapping[str, str], draw: Callable[[int], str]
) -> dict[str, str]:
    """The entries that must be written. `existing`: the Secret's decoded content."""
    values = {key: existing.get(key) or draw(length) for key, length in required.random.items()}
    entries = dict(values)
    for key, text in required.text.items():
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        entries[key] = text
    return {key: value for key, value in entries.items() if existing.get(key) != value}


async def fill(client: Client, namespace: str, required: Sequence[ServerSecret]) -> None:
    """Write missing entries, then the files. Raises KubeError; NotFound: the chart has not rendered
    the Secret.
    """
    for secret in required:
        while True:
            current = await client.get(SECRETS, secret.name, namespace=namespace, into=_Secret)
            existing = {
                key: base64.b64decode(value).decode() for key, value in current.data.items()
            }
            missing = missing_entries(secret, existing, _draw)
            if missing:
                patch = {
                    "metadata": {"resourceVersion": current.metadata.resource_version},
                    "data": {
                        key: base64.b64encode(value.encode()).decode()
                        for key, value in missing.items()
                    },
                }
                try:
                    await client.patch(
                        SECRETS, secret.name, patch, namespace=namespace, into=msgspec.Raw
                    )
                except Conflict:
                    continue  # another replica has written first: its values count
                print(  # noqa: T201
                    f"Secret {namespace}/{secret.name}: wrote {', '.join(sorted(missing))}",
                    flush=True,
                )
            _write_files(secret.files, {**existing, **missing})
            break


def _write_files(files: Mapping[str, str], values: Mapping[str, str]) -> None:
    for path, key in files.items():
        Path(path).write_text(values[key])


def _draw(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


async def _main() -> None:
    required = msgspec.json.decode(os.environ[VARIABLE], type=list[ServerSecret])
    async with Client(load_config(), field_manager="vdi-gateway") as client:
        await fill(client, os.environ["VDI_GATEWAY_NAMESPACE"], required)


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except KubeError as error:
        sys.exit(f"the Secrets of the servers cannot be filled: {error}")
