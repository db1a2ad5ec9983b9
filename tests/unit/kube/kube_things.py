"""A kind of its own for these tests, and short ways to its objects."""

from pathlib import Path
from typing import Any

import msgspec
import yaml

from vdi.kube.resource import Resource

THINGS = Resource("example.org", "v1", "things", "Thing")
HASH = "example.org/applied-hash"


class OwnerRef(msgspec.Struct, gc=False):
    uid: str


class Meta(msgspec.Struct, rename="camel", gc=False):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    owner_references: tuple[OwnerRef, ...] = ()


class Thing(msgspec.Struct, gc=False):
    metadata: Meta
    size: int = 0


def a_thing(
    name: str = "a",
    version: int = 1,
    uid: str = "",
    size: int = 0,
    owners: tuple[str, ...] = (),
    namespace: str = "ns",
) -> Thing:
    references = tuple(OwnerRef(owner) for owner in owners)
    return Thing(Meta(name, namespace, uid or f"uid-{name}", str(version), None, references), size)


def requested(name: str = "a", **content: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.org/v1",
        "kind": "Thing",
        "metadata": {"name": name, "namespace": "ns"},
        **content,
    }


def a_kubeconfig(
    path: Path, *, name: str = "one", current: str | None = None, user: Any = None, **cluster: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": name if current is None else current,
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}
        ],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443/", **cluster}}],
        "users": [{"name": name, "user": user if user is not None else {"token": f"token-{name}"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


class Journal:
    """Writes down every change that a store tells of."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, old: Thing | None, new: Thing | None) -> None:
        known = new or old
        assert known is not None
        verb = "+" if old is None else "-" if new is None else "~"
        self.lines.append(f"{verb}{known.metadata.name}")
