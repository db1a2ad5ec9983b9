"""How large a desktop is, for the history. Pure."""

from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.limits import gpus_of
from vdi.session.units import parse_quantity

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class DesktopSize:
    """What a desktop may use; None: that cannot be read."""

    gpus: int
    cpu: float | None
    memory_gib: float | None


def size_of(template: VDITemplate, session: VDISession | None = None) -> DesktopSize:
    """The size of a session's desktop; without a session that of the template's defaults."""
    offer, requested = template.spec.resources, session.spec.resources if session else None
    memory = _amount(requested.memory if requested else offer.default_memory)
    return DesktopSize(
        gpus=gpus_of(session, template) if session else offer.default_gpu,
        cpu=_amount(requested.cpu if requested and requested.cpu is not None else offer.default_cpu),
        memory_gib=None if memory is None else memory / _GIB,
    )


def _amount(quantity: str) -> float | None:
    try:
        return float(parse_quantity(quantity))
    except ValueError:
        return None
