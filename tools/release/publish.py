"""Pushes images and chart of a release to a registry, and signs there what was pushed, by digest.

oras and helm read the credentials of `docker login` and `helm registry login`.
"""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

from tools.release.images import TAG, read_json
from tools.release.programs import KEY_ALONE, ProgramError, Programs
from tools.release.signing import PROVENANCE, write_public_key
from vdi.release.signatures import PUBLIC_KEY, verify_folder


def publish(programs: Programs, dist: Path, registry: str, key: Path) -> list[str]:
    """Push what the key has signed, and sign each digest; gives the references. Raises
    ProgramError.
    """
    with tempfile.TemporaryDirectory() as scratch:
        write_public_key(programs, key, public := Path(scratch) / PUBLIC_KEY)
        verify_folder(programs.path("cosign"), dist, public)
    pushed = {}
    for reference, layout in push_images(programs, dist, registry).items():
        name = layout.name.removeprefix("vdi-image-").partition("-")[0]
        pushed[reference] = [
            ("cyclonedx", path) for path in sorted(dist.glob(f"vdi-image-{name}-*.cdx.json"))
        ]
    pushed[_push_chart(programs, next(dist.glob("vdi-*.tgz")), registry)] = []
    options = ("--key", key, *KEY_ALONE, "--yes")
    for reference, bills in pushed.items():
        print(f"signing {reference}")
        programs.run("cosign", "sign", *options, reference)
        for kind, predicate in [("slsaprovenance1", dist / PROVENANCE), *bills]:
            programs.run(
                "cosign", "attest", *options, "--type", kind, "--predicate", predicate, reference
            )
    return list(pushed)


def push_images(programs: Programs, folder: Path, registry: str) -> dict[str, Path]:
    """Push each layout; gives references by digest, with their layouts. Raises ProgramError."""
    pushed = {}
    for layout in sorted(folder.glob("vdi-image-*.tar")):
        with tarfile.open(layout) as source:
            entry = read_json(source, "index.json")["manifests"][0]
        tag, digest = entry["annotations"][TAG], entry["digest"]
        repository = f"{registry}/{layout.name.removeprefix('vdi-image-').partition(f'-{tag}')[0]}"
        print(f"pushing {repository}:{tag}")
        programs.run("oras", "cp", "--from-oci-layout", f"{layout}:{tag}", f"{repository}:{tag}")
        if (pushed_digest := programs.run("oras", "resolve", f"{repository}:{tag}")) != digest:
            raise ProgramError(
                f"{repository}:{tag}: the registry has {pushed_digest}, the release {digest}"
            )
        pushed[f"{repository}@{digest}"] = layout
    return pushed


def _push_chart(programs: Programs, chart: Path, registry: str) -> str:
    tag = f"{registry}/charts/vdi:{chart.stem.removeprefix('vdi-')}"
    print(f"pushing {tag}")
    loopback = ("--plain-http",) if registry.startswith("localhost:") else ()
    programs.run("helm", "push", chart, f"oci://{registry}/charts", *loopback)
    reference = f"{registry}/charts/vdi@{programs.run('oras', 'resolve', tag)}"
    there = [
        layer["digest"]
        for layer in json.loads(programs.run("oras", "manifest", "fetch", reference))["layers"]
    ]
    signed = f"sha256:{hashlib.sha256(chart.read_bytes()).hexdigest()}"
    if there != [signed]:
        raise ProgramError(
            f"{tag}: the registry has the chart {' '.join(there)}, the release {signed}"
        )
    return reference
