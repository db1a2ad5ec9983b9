"""The catalogue: every code that the doctor may give, layer by layer. docs/doctor.md and docs/doctor/ come from it."""

from vdi.diagnosis.code import Code
from vdi.doctor.codes.control_plane import CONTROL_PLANE
from vdi.doctor.codes.data_plane import DATA_PLANE
from vdi.doctor.codes.gateway import GATEWAY
from vdi.doctor.codes.graphics import GRAPHICS
from vdi.doctor.codes.infrastructure import INFRASTRUCTURE
from vdi.doctor.codes.network import NETWORK
from vdi.doctor.codes.probes import PROBES
from vdi.kasm.diagnosis.codes import CODES as KASM

_LAYERS = (CONTROL_PLANE, INFRASTRUCTURE, NETWORK, DATA_PLANE, GRAPHICS, GATEWAY, PROBES, KASM.values())
CODES: dict[str, Code] = {one.code: one for layer in _LAYERS for one in layer}
