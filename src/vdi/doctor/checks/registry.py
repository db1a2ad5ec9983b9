"""How the doctor's checks make a finding from its code."""

from functools import partial

from vdi.diagnosis.check import make_finding
from vdi.doctor.codes import CODES

found = partial(make_finding, CODES)
