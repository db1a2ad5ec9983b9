"""A TLS Secret as a snapshot keeps it."""

from vdi.diagnosis.snapshot import Certificate
from vdi.kube import certificate
from vdi.session.times import format_time


def read_certificate(namespace: str, secret: str, pem: bytes) -> Certificate:
    """The certificate of this Secret, with times as text: a snapshot is a file too."""
    found = certificate.read_certificate(pem)
    return Certificate(
        namespace=namespace,
        secret=secret,
        names=found.names,
        begins=format_time(found.begins) if found.begins else "",
        ends=format_time(found.ends) if found.ends else "",
        problem=found.problem,
    )
