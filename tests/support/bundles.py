"""For the suites of the doctor: what a bundle that is given to strangers has to say."""

import msgspec

from vdi.findings.model import Finding
from vdi.snapshot.model import Snapshot
from vdi.snapshot.redact import names_in


def renamed(findings: list[Finding], snapshot: Snapshot) -> list[Finding]:
    """Findings of a snapshot with the names that people have in its bundle."""
    text = names_in(snapshot)(msgspec.json.encode(findings).decode())
    return msgspec.json.decode(text, type=list[Finding])
