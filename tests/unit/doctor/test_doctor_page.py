"""docs/doctor.md and docs/doctor/ are what the catalogue says."""

import re

import pytest

from tools.generate.doctor_pages import INDEX
from vdi.diagnosis.check import code_page
from vdi.doctor.codes import CODES


@pytest.mark.parametrize("layer", sorted({code.layer for code in CODES.values()}))
def test_every_code_has_a_heading_on_its_page(layer: str) -> None:
    codes = [code for code in CODES.values() if code.layer == layer]
    page = INDEX.parents[1] / code_page(codes[0])
    assert re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE) == [code.code for code in codes]
