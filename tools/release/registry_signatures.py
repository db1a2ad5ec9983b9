"""Signatures and attestations of images and chart, as a registry keeps them for cosign.

Source of the format: sigstore/cosign, specs/SIGNATURE_SPEC.md and ATTESTATION_SPEC.md. What belongs to the digest
sha256:HEX is an image of its own in the same repository, under the tag sha256-HEX.sig or sha256-HEX.att. They are made
with the release's key when the release is built, so that whoever publishes needs no private key.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tools.release import oci, signing
from tools.release.build import SOURCE_REGISTRY, Release

CYCLONEDX = "https://cyclonedx.org/bom"
SIGNATURE_NOTE = "dev.cosignproject.cosign/signature"
_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
_ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
Object = dict[str, Any]


def sign_release(folder: Path, release: Release, key: ec.EllipticCurvePrivateKey, predicate: Mapping[str, Any]) -> None:
    """Sign what is for a registry, and then every file of `folder`. `predicate` is the provenance."""
    target = folder / f"vdi-signatures-{release.version}.tar"
    _write_signatures(folder, target, key, release.registry or SOURCE_REGISTRY, predicate)
    signing.sign(folder, key, predicate)


def _write_signatures(
    folder: Path, target: Path, key: ec.EllipticCurvePrivateKey, registry: str, predicate: Mapping[str, Any]
) -> None:
    """Write one layout with signature and attestations of each image and of the chart in `folder`.

    The provenance of each is attested; of an image its bills of materials too.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        layout = oci.Layout(Path(scratch) / "layout")
        named = []
        for artifact in oci.artifacts(folder):
            repository = artifact.target.rpartition(":")[0]
            tag = artifact.digest.replace(":", "-")
            payload = _payload(f"{registry}/{repository}", artifact.digest)
            notes = {SIGNATURE_NOTE: signing.signature_of(payload, key)}
            named.append((_image(layout, [(_PAYLOAD, payload, notes)]), f"{repository}:{tag}.sig"))
            statements = [(signing.SLSA_PROVENANCE, dict(predicate)), *_bills(folder, artifact)]
            envelopes = [_attestation(repository, artifact.digest, kind, content, key) for kind, content in statements]
            named.append((_image(layout, envelopes), f"{repository}:{tag}.att"))
        layout.close(named)
        layout.write(target)


def _payload(reference: str, digest: str) -> bytes:
    """What a signature is made over."""
    identity = {"docker-reference": reference}
    critical = {
        "identity": identity,
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return oci.as_json({"critical": critical, "optional": None})


def _bills(folder: Path, artifact: oci.Artifact) -> list[tuple[str, Object]]:
    """The bills of materials beside an image's layout; a chart has none."""
    kind, _, name = artifact.layout.name.partition("-image-")
    if not name:
        return []
    stem = f"{kind}-image-{artifact.target.replace(':', '-')}-"
    return [(CYCLONEDX, json.loads(path.read_text())) for path in sorted(folder.glob(f"{stem}*.cdx.json"))]


def _attestation(
    repository: str, digest: str, kind: str, predicate: Object, key: ec.EllipticCurvePrivateKey
) -> tuple[str, bytes, Mapping[str, str]]:
    algorithm, _, value = digest.partition(":")
    subjects = [{"name": repository, "digest": {algorithm: value}}]
    envelope = signing.envelope_of(signing.statement_of(subjects, kind, predicate), key)
    return _ENVELOPE, oci.as_json(envelope), {SIGNATURE_NOTE: "", "predicateType": kind}


def _image(layout: oci.Layout, parts: Iterable[tuple[str, bytes, Mapping[str, str]]]) -> oci.Blob:
    """An image whose layers are documents: (media type, content, annotations)."""
    layers = [(layout.add(media_type, content), notes) for media_type, content, notes in parts]
    config = {
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob, _ in layers]},
    }
    return layout.add_manifest(layout.add(_CONFIG, oci.as_json(config)), layers, {})
