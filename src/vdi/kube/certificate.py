"""Names and validity of the certificate in a TLS Secret. The key is never read."""

from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID


class Certificate(msgspec.Struct, frozen=True):
    """The public part of a TLS Secret."""

    names: tuple[str, ...] = ()
    begins: datetime | None = None
    ends: datetime | None = None
    # Why the certificate is missing, a clause; the rest is empty then.
    problem: str = ""


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate of a chain, which is the server's."""
    if not pem.strip():
        return Certificate(problem="it has no key tls.crt")
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return Certificate(problem="its tls.crt is not a certificate in PEM")
    return Certificate(names=_names(found), begins=found.not_valid_before_utc, ends=found.not_valid_after_utc)


def _names(found: x509.Certificate) -> tuple[str, ...]:
    try:
        other = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(str(attribute.value) for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return tuple(other.get_values_for_type(x509.DNSName))


def covers(name: str, host: str) -> bool:
    """Whether a name of a certificate is meant for this host: a wildcard stands for exactly one label (RFC 6125)."""
    if name.lower() == host.lower():
        return True
    first, _, rest = host.partition(".")
    return bool(first) and name.startswith("*.") and name[2:].lower() == rest.lower()
