"""A TLS Secret -> names and times of its certificate. The key is never looked at."""

from cryptography import x509
from cryptography.x509.oid import NameOID

from vdi.doctor.snapshot import Certificate
from vdi.session.times import format_time


def read_certificate(namespace: str, secret: str, pem: bytes) -> Certificate:
    """The first certificate of a chain, which is the server's."""
    if not pem.strip():
        return Certificate(namespace=namespace, secret=secret, problem="it has no key tls.crt")
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return Certificate(namespace=namespace, secret=secret, problem="its tls.crt is no certificate in PEM")
    return Certificate(
        namespace=namespace,
        secret=secret,
        names=_names(found),
        begins=format_time(found.not_valid_before_utc),
        ends=format_time(found.not_valid_after_utc),
    )


def _names(found: x509.Certificate) -> tuple[str, ...]:
    try:
        other = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(str(one.value) for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return tuple(other.get_values_for_type(x509.DNSName))


def covers(name: str, host: str) -> bool:
    """Whether a name of a certificate is meant for this host: a wildcard stands for exactly one label (RFC 6125)."""
    if name.lower() == host.lower():
        return True
    first, _, rest = host.partition(".")
    return bool(first) and name.startswith("*.") and name[2:].lower() == rest.lower()
