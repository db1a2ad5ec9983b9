"""What docs/design/gateway-rights.md says that the gateway may do; the chart must grant that, and nothing else."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/design/gateway-rights.md"
Rule = dict[str, Any]


def documented_rules() -> dict[str, list[Rule]]:
    """The rules of each role, by its kind and name: `Role/vdi-gateway`. `secrets/NAME` is the Secret of that name."""
    rules: dict[str, list[Rule]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if found := re.match(r"(Role|ClusterRole) `([a-z-]+)`", line):
            heading = f"{found[1]}/{found[2]}"
            rules[heading] = []
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[0] not in ("apiGroup", "---"):
            rules[heading].append(_rule(*cells[:3]))
    assert len(rules) == 4 and all(rules.values()), f"{PAGE} has changed its shape"
    return rules


def _rule(group: str, resources: str, verbs: str) -> Rule:
    names = [one.strip(" `") for one in resources.split(",")]
    rule: Rule = {"apiGroups": ["" if group == "(core)" else group.strip("`")], "verbs": verbs.split(", ")}
    secret, _, name = names[0].partition("/")
    if secret == "secrets" and name:
        return rule | {"resources": [secret], "resourceNames": [name]}
    return rule | {"resources": names}
