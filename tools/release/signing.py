"""Checksums, provenance and signatures of a release's files.

Signatures are ECDSA over P-256 with SHA-256, in base64: `cosign verify-blob --key` and `openssl dgst -verify` read them
too. The provenance is an in-toto statement (SLSA provenance v1) in a DSSE envelope.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
PROVENANCE = "provenance.intoto.json"
PUBLIC_KEY = "release.pub"
_UNLISTED = {SUMS, SIGNATURE, PUBLIC_KEY}
"""Files that the checksums cannot cover. The public key is compared with the one that the verifier trusts."""
SLSA_PROVENANCE = "https://slsa.dev/provenance/v1"
_STATEMENT = "application/vnd.in-toto+json"
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class VerificationError(Exception):
    """Raised when a file of the release is not what was signed; the message names the file."""


def new_key(path: Path) -> None:
    """Write a new private key to `path` (PKCS #8, readable by the owner alone), and PATH.pub."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.with_name(f"{path.name}.pub").write_bytes(_public_pem(key.public_key()))


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key. Raises TypeError, ValueError for a file that has none of this kind."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise TypeError(f"{path}: allowed: a private key for ECDSA over P-256; `python -m tools.release key` makes one")
    return key


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256, of all files that are listed."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name not in _UNLISTED}


def sign(folder: Path, key: ec.EllipticCurvePrivateKey, predicate: Mapping[str, Any]) -> None:
    """Write provenance, checksums, their signature and the public key beside the files of `folder`."""
    subjects = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in checksums(folder).items() if name != PROVENANCE
    ]
    envelope = envelope_of(statement_of(subjects, SLSA_PROVENANCE, predicate), key)
    (folder / PROVENANCE).write_text(json.dumps(envelope, indent=1) + "\n")
    sums = "".join(f"{digest}  {name}\n" for name, digest in checksums(folder).items()).encode()
    (folder / SUMS).write_bytes(sums)
    (folder / SIGNATURE).write_text(signature_of(sums, key) + "\n")
    (folder / PUBLIC_KEY).write_bytes(_public_pem(key.public_key()))


def signature_of(content: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """A signature in base64."""
    return base64.b64encode(key.sign(content, _ALGORITHM)).decode()


def statement_of(subjects: Sequence[Mapping[str, Any]], kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement. `kind` is the type of the predicate."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [*subjects],
        "predicateType": kind,
        "predicate": predicate,
    }


def envelope_of(statement: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The statement in a DSSE envelope, signed."""
    payload = json.dumps(statement, sort_keys=True).encode()
    return {
        "payloadType": _STATEMENT,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": signature_of(_pre_authentication(payload), key)}],
    }


def open_envelope(envelope: Mapping[str, Any], key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The statement in a DSSE envelope. Raises VerificationError when it was not signed with `key`."""
    payload = base64.b64decode(envelope["payload"])
    _check(key, PROVENANCE, envelope["signatures"][0]["sig"], _pre_authentication(payload), "it was changed")
    statement: dict[str, Any] = json.loads(payload)
    return statement


def verify(folder: Path, trusted: Path) -> list[str]:
    """Prove each file of `folder` with the public key `trusted`; gives their names. Raises VerificationError."""
    key = _load_public(trusted)
    for name in (SUMS, SIGNATURE, PROVENANCE):
        if not (folder / name).is_file():
            raise VerificationError(f"{name}: it is missing")
    sums = (folder / SUMS).read_bytes()
    _check(key, SIGNATURE, (folder / SIGNATURE).read_text(), sums, f"{SUMS} or its signature was changed")
    lines = (line.split("  ", 1) for line in sums.decode().splitlines())
    listed = {name: digest for digest, name in lines}
    found = checksums(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise VerificationError(f"{name}: it is missing")
        if name not in listed:
            raise VerificationError(f"{name}: it is not a file of the release")
        if found[name] != listed[name]:
            raise VerificationError(f"{name}: it was changed: its SHA-256 is {found[name]}, signed is {listed[name]}")
    _verify_provenance(folder, key, listed)
    return sorted(listed)


def _verify_provenance(folder: Path, key: ec.EllipticCurvePublicKey, listed: Mapping[str, str]) -> None:
    statement = open_envelope(json.loads((folder / PROVENANCE).read_text()), key)
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    if subjects != {name: digest for name, digest in listed.items() if name != PROVENANCE}:
        raise VerificationError(f"{PROVENANCE}: its subjects are not the files in {SUMS}")


def _check(key: ec.EllipticCurvePublicKey, name: str, signature: str, content: bytes, reason: str) -> None:
    try:
        key.verify(base64.b64decode(signature, validate=False), content, _ALGORITHM)
    except (InvalidSignature, binascii.Error) as error:
        raise VerificationError(f"{name}: {reason}, or it was signed with another key") from error


def _load_public(path: Path) -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_public_key(path.read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(f"{path}: allowed: a public key for ECDSA over P-256")
    return key


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pre_authentication(payload: bytes) -> bytes:
    """What a DSSE signature is made over."""
    return b"DSSEv1 %d %s %d %s" % (len(_STATEMENT), _STATEMENT.encode(), len(payload), payload)
