"""The chart's rules for the doctor of gateway and CronJob, made from what its checks need."""

from collections import defaultdict
from pathlib import Path

from vdi.doctor.checks.run import UNPRIVILEGED
from vdi.doctor.collect import rights_for

FILE = Path(__file__).parents[2] / "charts/vdi/templates/_doctor_rules.tpl"
_HEAD = """\
{{/* Made by `make generate`: what `vdi doctor` reads, in all namespaces; no Secret is among it. */}}
{{- define "vdi.doctor.rules" -}}
"""


def text() -> str:
    """The template with one rule for each verb and API group."""
    rules: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verb, group, resource in rights_for(UNPRIVILEGED):
        rules[verb, group].append(resource)
    lines = []
    for (verb, group), resources in sorted(rules.items()):
        lines += [
            f'- apiGroups: ["{group}"]',
            f"  resources: [{', '.join(sorted(resources))}]",
            f"  verbs: [{verb}]",
        ]
    return f"{_HEAD}{chr(10).join(lines)}\n{{{{- end }}}}\n"
