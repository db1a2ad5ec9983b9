"""The catalogue as a page, docs/doctor.md."""

from collections.abc import Iterator

from vdi.diagnosis.code import Code
from vdi.doctor.codes import CODES
from vdi.doctor.fix.fixes import FIXES

_HEAD = """<!-- Generated from src/vdi/doctor/codes by `make generate`. Edit there. -->
# The doctor: what each code means

`vdi doctor` looks at control plane, infrastructure and data plane, and says what is broken, where, with the proof, and
what fixes it. It changes nothing, unless `--fix` is given, which shows each change and asks. How it works is in
[design/doctor.md](design/doctor.md), its options are in `vdi doctor --help`.
"""


def render_page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_table(), *_sections()]) + "\n"


def _table() -> Iterator[str]:
    yield "| layer | codes |"
    yield "|---|---|"
    for layer in dict.fromkeys(code.layer for code in CODES.values()):
        links = ", ".join(f"[{code.code}](#{code.code})" for code in CODES.values() if code.layer == layer)
        yield f"| {layer} | {links} |"


def _sections() -> Iterator[str]:
    for code in CODES.values():
        yield f"\n## {code.code}"
        yield "\n".join(explain_code(code))


def explain_code(one: Code) -> list[str]:
    """One entry, line by line; for the page and for `--explain`."""
    lines = [
        f"{one.layer.capitalize()}, {one.severity.value}. {one.means}",
        "",
        f"- **Proof**: {one.proof}",
        f"- **Remedy**: {one.remedy}",
    ]
    if one.code in FIXES:
        lines.append(f"- **`vdi doctor --fix`**, after asking: {FIXES[one.code].words}.")
    if one.follows:
        lines.append(f"- **May follow from**: {', '.join(one.follows)}")
    return lines
