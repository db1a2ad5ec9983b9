"""One code of the catalogue, explained: for `vdi doctor --explain` and for the pages in docs/doctor."""

from vdi.diagnosis.code import Code
from vdi.doctor.fix.fixes import FIXES


def explain_code(code: Code) -> list[str]:
    """Line by line, in Markdown."""
    lines = [
        f"{code.layer.capitalize()}, {code.severity.value}. {code.means}",
        "",
        f"- **Proof**: {code.proof}",
        f"- **Remedy**: {code.remedy}",
    ]
    if code.code in FIXES:
        lines.append(f"- **`vdi doctor --fix`**, after asking: {FIXES[code.code].words}.")
    if code.follows:
        lines.append(f"- **May follow from**: {', '.join(code.follows)}")
    return lines
