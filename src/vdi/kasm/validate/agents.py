"""What the API shows of Kasm's agents, which run the sessions: as pods, or on machines outside the cluster. Pure.

Agents outside (the only kind up to Kasm 1.18) connect to Kasm by its public name and are connected to by its proxy,
API and manager; the Kubernetes API knows nothing of them, but whether a NetworkPolicy keeps those from them it does.
"""

from collections.abc import Iterator
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import counted, listed, name_of, unreadable_finding
from vdi.kasm.preflight.installed import Installed
from vdi.kasm.validate.facts import Installation

Object = dict[str, Any]
OUTSIDE = (
    "Agents on machines outside the cluster are not visible in the Kubernetes API. See them in Kasm: "
    "Infrastructure, Docker Agents. A new agent is disabled until someone enables it there. It must reach "
    "https://{host}; Kasm's proxy, API and manager must reach the agent's port 443."
)
_CONNECTING = ("proxy", "api", "manager", "connection-proxy", "guac", "rdp-gateway", "rdp-https-gateway")


def notes(found: Installation) -> list[str]:
    """What cannot be looked at from here."""
    return [OUTSIDE.format(host=found.hostname or "HOST")]


def agent_lines(found: Installation, installed: Installed) -> Iterator[Finding]:
    """Agents as pods, where the cluster knows that kind; and policies in the way of agents outside."""
    if "agents" not in found.absent:
        yield _agents_line(found)
    closed = _closed_line(found, installed)
    if closed is not None:
        yield closed


def _agents_line(found: Installation) -> Finding:
    expected = "agents that are pods are ready, and no session hangs in deletion"
    unread = found.missing("agents", "kasmworkspaces")
    if unread is not None:
        return unreadable_finding("agents", expected, unread)
    agents = found.all("agents")
    ill = [name_of(agent) for agent in agents if _says_no(agent)]
    hanging = [
        name_of(kasmworkspace)
        for kasmworkspace in found.all("kasmworkspaces")
        if kasmworkspace["metadata"].get("deletionTimestamp")
    ]
    observed = f"{counted(len(agents), 'agent')}, {counted(len(found.all('kasmworkspaces')), 'session')}"
    observed += f"; not ready: {listed(ill)}" if ill else ""
    observed += f"; being deleted: {listed(hanging)}" if hanging else ""

    def line(severity: Severity, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="agents", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if ill:
        namespace, _, name = ill[0].rpartition("/")
        where = f" --namespace {namespace}" if namespace else ""
        return line(
            Severity.ERROR,
            "Sessions cannot start there.",
            Remedy.run(f"kubectl{where} describe agents.agent.kasm.com {name}"),
        )
    if hanging and not agents:
        message = "Their agent was deleted first, and nothing removes their finalizers now."
        return line(
            Severity.ERROR,
            message,
            Remedy("Install the agent again, delete the sessions, then the agent, then the release."),
        )
    return line(Severity.OK)


def _says_no(agent: Object) -> bool:
    conditions = (agent.get("status") or {}).get("conditions") or ()
    return any(
        condition.get("type") in ("Ready", "Available") and condition.get("status") == "False"
        for condition in conditions
    )


def _closed_line(found: Installation, installed: Installed) -> Finding | None:
    """Pods that connect to agents, and may connect to nothing outside the cluster."""
    if found.missing("networkpolicies", "pods") is not None:
        return None
    closed = set()
    for pod in found.all("pods"):
        component = installed.generation.component_of(pod["metadata"].get("labels") or {})
        if component is not None and component.key in _CONNECTING and _is_closed(found, pod):
            closed.add(component.key)
    if not closed:
        return None
    return Finding(
        code="agent-egress",
        severity=Severity.WARNING,
        observed=f"NetworkPolicies do not let {listed(sorted(closed))} connect to anything outside the cluster",
        expected="connections to external agents, if there are any",
        message="A session on an agent outside the cluster would open but stay black.",
        remedy=Remedy(
            "Allow egress to the agents, port 443.", (f"kubectl --namespace {found.namespace} get networkpolicy",)
        ),
    )


def _is_closed(found: Installation, pod: Object) -> bool:
    """Some policy restricts what it connects to, and none lets it out: to everywhere, or to a range of addresses."""
    policies = [
        spec
        for policy in found.all("networkpolicies")
        if "Egress" in ((spec := policy.get("spec") or {}).get("policyTypes") or ()) and _selects(spec, pod)
    ]
    rules = [rule for spec in policies for rule in spec.get("egress") or ()]
    out = any(not rule.get("to") or any("ipBlock" in peer for peer in rule["to"]) for rule in rules if _web(rule))
    return bool(policies) and not out


def _web(rule: Object) -> bool:
    """Whether it is about port 443 too; a rule for DNS alone is not."""
    ports = rule.get("ports")
    return not ports or any(port.get("port", 443) == 443 and port.get("protocol", "TCP") == "TCP" for port in ports)


def _selects(spec: Object, pod: Object) -> bool:
    """By labels alone: a policy with expressions is taken to select, since that only leads to a closer look."""
    labels = pod["metadata"].get("labels") or {}
    expected = (spec.get("podSelector") or {}).get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in expected.items())
