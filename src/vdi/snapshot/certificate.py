"""The certificate in a TLS Secret, as a snapshot keeps it. Of its key nothing is kept."""

from functools import partial

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from vdi.cluster.units import format_time
from vdi.snapshot.model import Certificate


def read_certificate(namespace: str, secret: str, pem: bytes, key: bytes = b"") -> Certificate:
    """The first certificate of a chain, which is the server's. `key`: compared with it, where it is
    known.
    """
    made = partial(Certificate, namespace=namespace, secret=secret)
    if not pem.strip():
        return made(problem="it has no key tls.crt")
    try:
        parsed = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return made(problem="its tls.crt is not a certificate in PEM")
    if key and not _belong_together(parsed, key):
        return made(problem="its private key does not belong to its certificate")
    begins, ends = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    return made(names=_names(parsed), begins=format_time(begins), ends=format_time(ends))


def _belong_together(parsed: x509.Certificate, key: bytes) -> bool:
    try:
        return load_pem_private_key(key, None).public_key() == parsed.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _names(parsed: x509.Certificate) -> tuple[str, ...]:
    try:
        other = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(
            str(attribute.value)
            for attribute in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        )
    return tuple(other.get_values_for_type(x509.DNSName))


def covers(name: str, host: str) -> bool:
    """Whether a name of a certificate is meant for this host: a wildcard stands for exactly one
    label (RFC 6125).
    """
    if name.lower() == host.lower():
        return True
    first, _, rest = host.partition(".")
    return bool(first) and name.startswith("*.") and name[2:].lower() == rest.lower()
