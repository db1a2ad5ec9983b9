"""Catalogue of every code that the doctor may report, layer by layer, and the function that makes a
finding of one.

Checks and probes call `make_finding`; `make generate` writes docs/doctor.md and docs/doctor/ from
`CODES`.
"""

from functools import partial

from vdi.doctor.codes.control_plane import CONTROL_PLANE
from vdi.doctor.codes.data_plane import DATA_PLANE, GATEWAY, GRAPHICS, PROBES
from vdi.doctor.codes.infrastructure import INFRASTRUCTURE, NETWORK
from vdi.kasm.diagnosis.codes import CODES as KASM
from vdi.snapshot import check

_LAYERS = (
    CONTROL_PLANE,
    INFRASTRUCTURE,
    NETWORK,
    DATA_PLANE,
    GRAPHICS,
    GATEWAY,
    PROBES,
    KASM.values(),
)
CODES: dict[str, check.Code] = {code.code: code for layer in _LAYERS for code in layer}
make_finding = partial(check.make_finding, CODES)
