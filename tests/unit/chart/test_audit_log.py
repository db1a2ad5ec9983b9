"""The judge of rights by the audit log: it tells what was refused, what no one grants, and what is
granted in vain.
"""

import json
from pathlib import Path
from typing import Any

from support.audit_log import Right, not_granted, not_used, requests_of, rights_of

ME = "system:serviceaccount:kasm:me"
ROLE = "Role/me"


def event(
    verb: str, resource: str, *, name: str = "", decision: str = "allow", user: str = ME
) -> dict[str, Any]:
    thing = {
        "resource": resource.partition("/")[0],
        "namespace": "here",
        "apiVersion": "v1",
        "name": name,
    }
    if "/" in resource:
        thing["subresource"] = resource.partition("/")[2]
    annotations = {"authorization.k8s.io/decision": decision}
    return {
        "user": {"username": user},
        "verb": verb,
        "objectRef": thing,
        "annotations": annotations,
    }


def bound(
    kind: str, namespace: str, rules: list[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """A role of that kind for the account, and one for somebody else."""
    meta = {"name": "me"} | ({"namespace": namespace} if namespace else {})
    subjects = [{"kind": "ServiceAccount", "namespace": "kasm", "name": "me"}]
    others = [{"kind": "Group", "name": "system:authenticated"}]
    ref = {"kind": kind, "name": "me"}
    bindings = [{"metadata": meta, "roleRef": ref, "subjects": each} for each in (subjects, others)]
    plural = f"{kind.lower()}s"
    plurals = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")
    found: dict[str, list[dict[str, Any]]] = {plural: [] for plural in plurals}
    binding = "rolebindings" if namespace else "clusterrolebindings"
    return found | {plural: [{"metadata": meta, "rules": rules}], binding: bindings}


def test_used_and_granted_are_compared_verb_by_verb(tmp_path: Path) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]},
    ]
    rights = rights_of(bound("Role", "here", rules).__getitem__, ME)
    assert Right(ROLE, "here", "", "secrets", "get", "mine") in rights
    assert len(rights) == 5
    events = [
        event("get", "pods", name="a"),
        event("get", "pods/log", name="a"),
        event("get", "secrets", name="mine"),
        event("get", "secrets", name="other"),
        event("delete", "pods", name="a", decision="forbid"),
        event("list", "nodes", user="somebody"),
    ]
    log = tmp_path / "audit.log"
    log.write_text("".join(json.dumps(each) + "\n" for each in events) + '{"cut')
    asked = requests_of(log, ME)
    assert not_granted(asked, rights) == [
        "delete pods. here/a (refused)",
        "get secrets. here/other",
    ]
    assert not_used(asked, rights) == [f"{ROLE}: list pods", f"{ROLE}: list pods/log"]
    assert requests_of(log, ME, skip=log.stat().st_size) == set()


def test_a_role_counts_only_where_it_is_bound(tmp_path: Path) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    log = tmp_path / "audit.log"
    log.write_text(json.dumps(event("list", "pods")) + "\n")
    asked = requests_of(log, ME)
    assert not_granted(asked, rights_of(bound("ClusterRole", "", rules).__getitem__, ME)) == []
    assert not_granted(asked, rights_of(bound("Role", "here", rules).__getitem__, ME)) == []
    assert not_granted(asked, rights_of(bound("Role", "there", rules).__getitem__, ME)) == [
        "list pods. here/"
    ]
    assert (
        rights_of(bound("Role", "here", rules).__getitem__, "system:serviceaccount:kasm:you")
        == set()
    )
