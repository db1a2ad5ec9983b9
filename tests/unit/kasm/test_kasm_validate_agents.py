"""What the API shows of agents, as pods and outside."""

from typing import Any

import msgspec

from unit.kasm.preflight_site import DENIED
from unit.kasm.validate_site import HOST, a_kasm, broken, line_of
from vdi.findings.model import Severity
from vdi.kasm.validate.agents import notes
from vdi.kasm.validate.checks import validate
from vdi.kasm.validate.facts import Installation


def with_agents(agents: list[dict[str, Any]], sessions: list[dict[str, Any]] | None = None) -> Installation:
    found = broken(a_kasm(), agents=agents, kasmworkspaces=sessions or [])
    return msgspec.structs.replace(found, absent=frozenset())


def an_agent(ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {"name": "agent-1", "namespace": "kasm-agent"},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def test_a_cluster_without_that_kind_has_no_line_and_a_note() -> None:
    assert "agents" not in [line.code for line in validate(a_kasm())]
    assert f"https://{HOST}" in notes(a_kasm())[0]


def test_agents_as_pods() -> None:
    assert line_of("agents", with_agents([an_agent()])).severity is Severity.OK
    ill = line_of("agents", with_agents([an_agent("False")]))
    assert ill.severity is Severity.ERROR
    assert ill.remedy.text == "kubectl --namespace kasm-agent describe agents.agent.kasm.com agent-1"


def test_sessions_whose_agent_is_gone() -> None:
    hanging = {"metadata": {"name": "s1", "namespace": "kasm", "deletionTimestamp": "2026-11-20T11:00:00Z"}}
    assert line_of("agents", with_agents([], [hanging])).severity is Severity.ERROR
    assert line_of("agents", with_agents([an_agent()], [hanging])).severity is Severity.OK


def test_agents_that_may_not_be_read() -> None:
    found = msgspec.structs.replace(a_kasm(), absent=frozenset(), unread={"agents": DENIED})
    assert line_of("agents", found).severity is Severity.UNKNOWN


def a_policy(*egress: dict[str, Any], labels: dict[str, str] | None = None) -> list[dict[str, Any]]:
    spec = {"podSelector": {"matchLabels": labels or {}}, "policyTypes": ["Egress"], "egress": list(egress)}
    return [{"metadata": {"name": "closed"}, "spec": spec}]


DNS = {"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}
INSIDE: dict[str, Any] = {"to": [{"podSelector": {}}]}
OUT = {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}]}


def closed(*egress: dict[str, Any], labels: dict[str, str] | None = None) -> bool:
    lines = validate(broken(a_kasm(), networkpolicies=a_policy(*egress, labels=labels)))
    return any(line.code == "agent-egress" and line.severity is Severity.WARNING for line in lines)


def test_policies_that_keep_the_proxy_from_agents_outside() -> None:
    assert closed()
    assert closed(DNS, INSIDE)
    assert not closed(DNS, OUT)
    assert not closed({})
    assert closed({"ports": [{"port": 53, "protocol": "UDP"}]})
    assert not closed(DNS, labels={"app": "other"})
    assert closed(DNS, labels={"app.kubernetes.io/component": "proxy"})
