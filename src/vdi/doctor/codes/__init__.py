"""The catalogue: every code that the doctor may give, layer by layer. docs/doctor.md is made of it."""

from vdi.doctor.codes.control_plane import CONTROL_PLANE
from vdi.doctor.codes.data_plane import DATA_PLANE
from vdi.doctor.codes.infrastructure import INFRASTRUCTURE
from vdi.doctor.finding import Code

CODES: dict[str, Code] = {one.code: one for one in (*CONTROL_PLANE, *INFRASTRUCTURE, *DATA_PLANE)}
