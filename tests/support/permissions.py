"""Rights of operator and gateway, from permissions.yaml: for the tests, and for the tables in the
docs.
"""

from pathlib import Path
from typing import Any

import msgspec


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Verbs on resources of one API group. `secrets/NAME` is the Secret of that name."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str

    def policy_rule(self) -> dict[str, Any]:
        """As RBAC has it."""
        rule = {"apiGroups": [self.group], "verbs": list(self.verbs)}
        kind, _, name = self.resources[0].partition("/")
        if kind == "secrets" and name:
            return rule | {"resources": [kind], "resourceNames": [name]}
        return rule | {"resources": list(self.resources)}


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Role or ClusterRole."""

    kind: str
    title: str
    rules: tuple[Rule, ...]
    name: str = ""
    note: str = ""

    def policy_rules(self) -> list[dict[str, Any]]:
        return [rule.policy_rule() for rule in self.rules]


_ALL = msgspec.yaml.decode(
    Path(__file__).with_suffix(".yaml").read_bytes(), type=dict[str, list[Role]]
)
OPERATOR = _ALL["operator"]
GATEWAY = _ALL["gateway"]


def operator_rules() -> dict[str, list[dict[str, Any]]]:
    """By kind; the Role is that in the first of the sessions' namespaces."""
    rules = {role.kind: role.policy_rules() for role in OPERATOR if not role.name}
    return rules | {"Role": rules["Role"] + _rules_named("first")}


def operator_rules_elsewhere() -> list[dict[str, Any]]:
    """The Role in the other namespaces of sessions."""
    return next(role.policy_rules() for role in OPERATOR if role.kind == "Role" and not role.name)


def key_rules() -> list[dict[str, Any]]:
    """In the operator's own namespace."""
    return _rules_named("vdi-operator-keys")


def placeholder_rules() -> list[dict[str, Any]]:
    """In the namespace of the placeholders."""
    return _rules_named("vdi-operator-placeholders")


def _rules_named(name: str) -> list[dict[str, Any]]:
    return next(role.policy_rules() for role in OPERATOR if role.name == name)


def gateway_rules() -> dict[str, list[dict[str, Any]]]:
    """By kind and name: `Role/vdi-gateway`."""
    return {f"{role.kind}/{role.name}": role.policy_rules() for role in GATEWAY}
