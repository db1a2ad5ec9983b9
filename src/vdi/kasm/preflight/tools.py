"""Lines about what lies outside the cluster: programs, the registry, clocks. Pure."""

from collections.abc import Iterator
from functools import partial

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations.model import Version
from vdi.kasm.preflight.checklist import Unreadable, counted, item, unreadable_finding
from vdi.kasm.preflight.facts import Facts
from vdi.kasm.preflight.needs import version_of

NOTICED_SKEW = 5.0
"""Seconds. Signed tokens and one-time passwords are given about as much."""
HARMFUL_SKEW = 60.0
_LATE_BEAT = 20.0
"""Seconds: a kubelet renews its Lease every ten; an older one is as likely to be a kubelet that is slow."""


def tool_lines(facts: Facts, least_helm: Version) -> Iterator[Finding]:
    """Programs, registry, clocks."""
    yield _helm_line(facts, least_helm)
    yield _kubectl_line(facts)
    yield registry_line(facts)
    yield clock_line(facts)


def _helm_line(facts: Facts, least: Version) -> Finding:
    line = partial(item, "helm", f"{'.'.join(str(number) for number in least)} or later")
    tool = facts.tools.get("helm")
    remedy = Remedy("See https://helm.sh/docs/intro/install/.")
    if tool is None or tool.problem:
        message = f"The chart cannot be installed without Helm: {tool.problem if tool else 'it was not checked'}."
        return line("not found", Severity.ERROR, message, remedy)
    if version_of(tool.version) < least:
        return line(tool.version, Severity.ERROR, "Kasm's chart requires a newer version.", remedy)
    return line(tool.version)


def _kubectl_line(facts: Facts) -> Finding:
    line = partial(item, "kubectl", "at most one minor version from the cluster's")
    tool = facts.tools.get("kubectl")
    remedy = Remedy("See https://kubernetes.io/docs/tasks/tools/; a K3s server has `k3s kubectl`.")
    if tool is None or tool.problem:
        message = f"The remedies are kubectl commands: {tool.problem if tool else 'it was not checked'}."
        return line("not found", Severity.WARNING, message, remedy)
    versions = [(node.get("status") or {}).get("nodeInfo", {}).get("kubeletVersion", "") for node in facts.all("nodes")]
    minors = {version_of(version)[1] for version in versions if any(letter.isdigit() for letter in version)}
    own = version_of(tool.version)[1]
    if any(abs(own - minor) > 1 for minor in minors):
        message = f"The cluster has {', '.join(sorted(set(versions)))}; a larger difference is not supported."
        return line(tool.version, Severity.WARNING, message, remedy)
    return line(tool.version)


def registry_line(facts: Facts) -> Finding:
    """Whether it answers here. Nodes may have other ways (proxy, mirror), which are not seen from here."""
    expected = "responds with 200 or 401 at /v2/"
    line = partial(item, "registry", expected)
    found = facts.registry
    if found is None:
        return unreadable_finding(
            "registry", expected, Unreadable("The registry was not checked.", Remedy.run("vdi kasm preflight"))
        )
    remedy = Remedy(
        "Behind a proxy, set HTTPS_PROXY for k3s (/etc/systemd/system/k3s.service.env). Without internet access, "
        "set a mirror in /etc/rancher/k3s/registries.yaml, and pass its URL here with --registry.",
        (f"curl -I {found.url}",),
    )
    if not found.status:
        message = f"This machine could not pull images: {found.problem}. Nodes may have other network access."
        return line(f"{found.url}: no response", Severity.ERROR, message, remedy)
    observed = f"{found.url}: {found.status}"
    if found.status == 429:
        return line(
            observed,
            Severity.WARNING,
            "The registry responds, but has received too many requests from this address (Docker Hub's limit for "
            "anonymous users).",
            Remedy("Log in with a Secret of type dockerconfigjson and imagePullSecrets, or in registries.yaml."),
        )
    if found.status not in (200, 401):
        message = "The response is not from a registry (possibly a proxy's page)."
        return line(observed, Severity.ERROR, message, remedy)
    if not found.trusted:
        return line(
            observed,
            Severity.WARNING,
            "This machine does not trust its certificate; containerd refuses it too unless it is configured to.",
            Remedy("Set tls.ca_file of this registry in /etc/rancher/k3s/registries.yaml on every node."),
        )
    return line(observed)


def clock_line(facts: Facts) -> Finding:
    """This machine's clock and the nodes' against the API server's."""
    clocks = facts.clocks
    expected = f"within {NOTICED_SKEW:g} s of the API server's"
    if clocks.here is None:
        problem = clocks.problem or "the API server sent no time"
        return unreadable_finding(
            "clock", expected, Unreadable(f"Clocks were not compared: {problem}.", Remedy.run("timedatectl status"))
        )
    observed = f"this machine {round(clocks.here):+d} s"
    behind = {name: skew for name, skew in clocks.nodes.items() if skew < -_LATE_BEAT}
    ahead = {name: skew for name, skew in clocks.nodes.items() if skew > NOTICED_SKEW}
    wrong = {**behind, **ahead}
    observed += (
        f", {counted(len(clocks.nodes), 'node')} by the heartbeat" if clocks.nodes else ", no node's heartbeat read"
    )
    observed += "".join(f"; node {name} {round(skew):+d} s" for name, skew in sorted(wrong.items()))
    if abs(clocks.here) <= NOTICED_SKEW and not wrong:
        return item("clock", expected, observed)
    far = max([abs(clocks.here), *(abs(skew) for skew in wrong.values())])
    message = (
        "Certificates and signed tokens (sessions, agents, SAML, one-time passwords) are rejected when clocks differ."
    )
    if behind:
        message += " If a node seems to be behind, its kubelet may also have stopped."
    return item(
        "clock",
        expected,
        observed,
        Severity.ERROR if far > HARMFUL_SKEW else Severity.WARNING,
        message,
        Remedy("Here and on every node:", ("timedatectl set-ntp true", "timedatectl status")),
    )
