"""The catalogue: every code that the doctor may give, layer by layer. docs/doctor.md and docs/doctor/ come from it."""

from vdi.diagnosis.check import Code
from vdi.doctor.codes.control_plane import CONTROL_PLANE
from vdi.doctor.codes.data_plane import DATA_PLANE, GATEWAY, GRAPHICS, PROBES
from vdi.doctor.codes.infrastructure import INFRASTRUCTURE, NETWORK
from vdi.kasm.diagnosis.codes import CODES as KASM

_LAYERS = (CONTROL_PLANE, INFRASTRUCTURE, NETWORK, DATA_PLANE, GRAPHICS, GATEWAY, PROBES, KASM.values())
CODES: dict[str, Code] = {one.code: one for layer in _LAYERS for one in layer}
