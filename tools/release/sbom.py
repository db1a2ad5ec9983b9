"""Bills of materials (CycloneDX): what an image has installed, and the locked requirements of the wheel.

An image is read from its layers, so nothing that only the build had is listed.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import IO
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_STATUS = "var/lib/dpkg/status"
_BUILD_TOOL = re.compile(
    r"(gcc|g\+\+|cpp|clang)(-\d+)?|make|cmake|binutils|dpkg-dev|python3-(pip|venv)|pip|setuptools|wheel"
)
_METADATA = re.compile(r".*\.dist-info/METADATA")


def image_components(archive: Path) -> list[Component]:
    """What the image in `archive` (a file of `docker save`) has installed."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as outer:
        for name in json.load(_file(outer, "manifest.json"))[0]["Layers"]:
            with tarfile.open(fileobj=_file(outer, name)) as layer:
                found.update(_listings(layer))
    packages = _debian(found.pop(_STATUS, b"").decode())
    return sorted([*packages, *_python(found.values())], key=lambda component: str(component.purl))


def is_build_tool(package: str) -> bool:
    """Whether an image that only runs has no use for this package."""
    return _BUILD_TOOL.fullmatch(package) is not None


def locked_components(requirements: str) -> list[Component]:
    """What a file of locked requirements pins."""
    found = []
    for entry in re.findall(r"^(\S+)==(\S+)((?:.*\n)(?:    .*\n)*)", requirements, re.MULTILINE):
        name, version, rest = entry
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=value) for value in re.findall(r"sha256:(\w+)", rest)]
        found.append(_component("pypi", name, version, hashes=hashes))
    return found


def render(name: str, version: str, components: Iterable[Component]) -> str:
    """The document of `name`; the same for the same components, so it has no time."""
    root = Component(name=name, version=version, type=ComponentType.APPLICATION, bom_ref=name)
    bom = Bom(components=components, serial_number=uuid5(NAMESPACE_URL, f"{name}@{version}"))
    bom.metadata.component = root
    bom.register_dependency(root, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _listings(layer: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in layer:
        path = member.name.removeprefix("./")
        if member.isfile() and (path == _STATUS or _METADATA.fullmatch(path)):
            yield path, _file(layer, member).read()


def _debian(status: str) -> Iterator[Component]:
    for paragraph in status.split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Package"] and "installed" in (fields["Status"] or "").split():
            qualifiers = {"arch": fields["Architecture"]}
            yield _component("deb", fields["Package"], fields["Version"], namespace="debian", qualifiers=qualifiers)


def _python(metadata: Iterable[bytes]) -> Iterator[Component]:
    for text in metadata:
        fields = HeaderParser().parsestr(text.decode(errors="replace"))
        yield _component("pypi", fields["Name"], fields["Version"])


def _component(
    kind: str,
    name: str,
    version: str,
    *,
    namespace: str | None = None,
    qualifiers: dict[str, str] | None = None,
    hashes: Iterable[HashType] = (),
) -> Component:
    purl = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl), hashes=hashes
    )


def _file(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member} is no file in its archive")
    return file
