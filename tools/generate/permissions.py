"""The tables of what operator and gateway may do, made from tests/support/permissions.yaml."""

from collections.abc import Sequence
from pathlib import Path

from support.permissions import GATEWAY, OPERATOR, Role, Rule
from tools.generate.page import replace_generated

DESIGN = Path(__file__).parents[2] / "docs/design"
PAGES = {DESIGN / "operator.md": OPERATOR, DESIGN / "gateway.md": GATEWAY}


def page_text(page: str, roles: Sequence[Role]) -> str:
    return replace_generated(page, "\n\n".join(_role(role) for role in roles))


def _role(role: Role) -> str:
    table = ["| resource | verbs | for |", "|---|---|---|", *map(_row, role.rules)]
    return "\n\n".join(part for part in (role.title, "\n".join(table), role.note) if part)


def _row(rule: Rule) -> str:
    group = f" (`{rule.group}`)" if rule.group else ""
    resources = ", ".join(f"`{resource}`" for resource in rule.resources)
    return f"| {resources}{group} | {', '.join(rule.verbs)} | {rule.why} |"
