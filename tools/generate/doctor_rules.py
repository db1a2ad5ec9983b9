"""The chart's rules for the doctor of gateway and CronJob, made from what `vdi.doctor.collect`
reads.
"""

from collections import defaultdict
from pathlib import Path

from vdi.doctor.collect import LISTED, LOGGED, READ_ONE

FILE = Path(__file__).parents[2] / "charts/vdi/templates/_doctor_rules.tpl"
_HEAD = """\
{{/* Made by `make generate`: what `vdi doctor` reads, in all namespaces; no Secret is among it. */}}
{{- define "vdi.doctor.rules" -}}
"""


def text() -> str:
    """The template with one rule for each verb and API group."""
    rules: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind in LISTED:
        rules["list", kind.group].append(kind.plural)
    for kind in READ_ONE:
        rules["get", kind.group].append(kind.plural)
    rules["get", LOGGED.group].append(f"{LOGGED.plural}/log")
    lines = []
    for (verb, group), resources in sorted(rules.items()):
        lines += [
            f'- apiGroups: ["{group}"]',
            f"  resources: [{', '.join(sorted(resources))}]",
            f"  verbs: [{verb}]",
        ]
    return f"{_HEAD}{chr(10).join(lines)}\n{{{{- end }}}}\n"
