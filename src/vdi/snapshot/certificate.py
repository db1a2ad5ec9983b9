"""The certificate in a TLS Secret, as a snapshot keeps it. The key is never read."""

from functools import partial

from cryptography import x509
from cryptography.x509.oid import NameOID

from vdi.cluster.units import format_time
from vdi.snapshot.model import Certificate


def read_certificate(namespace: str, secret: str, pem: bytes) -> Certificate:
    """The first certificate of a chain, which is the server's."""
    made = partial(Certificate, namespace=namespace, secret=secret)
    if not pem.strip():
        return made(problem="it has no key tls.crt")
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return made(problem="its tls.crt is not a certificate in PEM")
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    return made(names=_names(found), begins=format_time(begins), ends=format_time(ends))


def _names(found: x509.Certificate) -> tuple[str, ...]:
    try:
        other = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(
            str(attribute.value)
            for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
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
