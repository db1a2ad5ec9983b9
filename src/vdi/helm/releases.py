"""Releases as Helm keeps them: Secrets of the release's namespace, one for each revision. Read
without helm.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import yaml

from vdi.kube.errors import UnexpectedAnswer
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.kube.wire import without_nulls

DEPLOYED = "deployed"
# Helm works on it, or was killed while it did.
PENDING = frozenset({"pending-install", "pending-upgrade", "pending-rollback"})

# Field manager of Helm, as `managedFields` names it.
FIELD_MANAGER = "helm"
# Label of every object that Helm may take into a release.
MANAGED_BY = {"app.kubernetes.io/managed-by": "Helm"}
# Annotations of every object of a release.
RELEASE_NAME, RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
# Annotation; with the value `keep` an object outlives its release.
KEEP = "helm.sh/resource-policy"

# Bytes, unpacked: a Secret of 1 MiB can hold 1,000 times as much.
_LARGEST_RELEASE = 64 * 2**20

Object = dict[str, Any]


class Info(msgspec.Struct, frozen=True):
    status: str = "unknown"
    last_deployed: str = ""
    description: str = ""
    notes: str = ""


class ChartMeta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    version: str = ""
    app_version: str = ""


class Chart(msgspec.Struct, frozen=True):
    """`chart` of a revision, without its files."""

    metadata: ChartMeta = ChartMeta()
    # The chart's defaults.
    values: dict[str, Any] = {}


class Hook(msgspec.Struct, frozen=True):
    """An object that Helm makes beside the release's own, at some event."""

    manifest: str = ""
    events: list[str] = []


class Revision(msgspec.Struct, frozen=True):
    """One revision of a release, as Helm has written it."""

    name: str
    namespace: str
    version: int
    info: Info = Info()
    chart: Chart = Chart()
    # The values that were given.
    config: dict[str, Any] | None = None
    manifest: str = ""
    hooks: list[Hook] | None = None
    # `ssa`: Helm 4 made it by server-side apply; else by patches, as Helm 3 does.
    apply_method: str = ""

    @property
    def status(self) -> str:
        """`deployed`, `superseded`, `failed`, `pending-upgrade`, ..."""
        return self.info.status

    @property
    def summary(self) -> str:
        """Helm's description, its first line."""
        return self.info.description.partition("\n")[0][:200]

    @property
    def chart_words(self) -> str:
        return f"{self.chart.metadata.name}-{self.chart.metadata.version}"

    def objects(self) -> list[Object]:
        return parse_manifest(self.manifest)


async def read_revisions(client: Client, namespace: str, name: str) -> list[Revision]:
    """All revisions of a release that Helm remembers, the newest first; none: there is no such
    release.
    """
    secrets = await client.list(
        SECRETS, namespace=namespace, label_selector=f"owner=helm,name={name}", into=dict[str, Any]
    )
    return sorted(
        (decode_revision(revision) for revision in secrets), key=lambda revision: -revision.version
    )


def decode_revision(secret: Object) -> Revision:
    """A revision from its Secret. Raises UnexpectedAnswer for something else."""
    where = f"Secret {secret['metadata']['namespace']}/{secret['metadata']['name']}"
    try:
        packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        content = _unpack(packed) if packed[:2] == b"\x1f\x8b" else packed
        return msgspec.json.decode(content, type=Revision)
    except (KeyError, ValueError, zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"{where} is not a release in Helm's format: {error}") from error


def _unpack(packed: bytes) -> bytes:
    """Decompress within the limit. Raises ValueError, zlib.error."""
    unpacker = zlib.decompressobj(wbits=31)
    content = unpacker.decompress(packed, _LARGEST_RELEASE)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it has more than {_LARGEST_RELEASE} bytes when it is unpacked")
    if not unpacker.eof:
        raise ValueError("its compressed data is truncated")
    return content


def deployed(revisions: Iterable[Revision]) -> Revision | None:
    """The newest revision that is in place."""
    return next((revision for revision in revisions if revision.status == DEPLOYED), None)


def last_good(revisions: Sequence[Revision]) -> Revision | None:
    """The revision to go back to: the one in place, else the newest that was."""
    replaced = (revision for revision in revisions if revision.status == "superseded")
    return deployed(revisions) or next(replaced, None)


def parse_manifest(text: str) -> list[Object]:
    """The objects of a rendered chart, without fields that are null."""
    documents = yaml.load_all(text, Loader=_LOADER)
    return [without_nulls(document) for document in documents if document]


# YAML 1.1 makes a date of `2026-11-20`, which Kubernetes reads as text. A comparison of objects
# would then differ.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a date is text."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for key, rules in _Loader.yaml_implicit_resolvers.items()
}
_LOADER = _Loader
