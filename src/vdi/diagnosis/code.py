"""An entry of the catalogue of codes."""

import msgspec

from vdi.findings.model import Severity


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the catalogue. Codes are never renamed and never used again for something else."""

    code: str
    layer: str
    severity: Severity = Severity.ERROR
    means: str
    """What it means, for somebody who has never seen it."""
    proof: str
    """What it is concluded from."""
    remedy: str
    """What helps, and why."""
    follows: tuple[str, ...] = ()
    """Codes that explain this one, the best explanation first, when they are about an object that is related to it."""
    cluster_wide: bool = False
    """As a cause it explains whatever lists it, whatever object that is about: the whole cluster depends on it."""
