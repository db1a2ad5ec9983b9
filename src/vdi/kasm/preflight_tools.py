"""Lines about what lies outside the cluster: programs, the registry, clocks. Pure."""

from collections.abc import Iterator

from vdi.kasm.generations_model import Version
from vdi.kasm.preflight_facts import Facts
from vdi.kasm.preflight_line import Line, Unread, Verdict, counted, unread_line
from vdi.kasm.preflight_needs import version_of

NOTICED_SKEW = 5.0
"""Seconds. Signed tokens and one-time passwords are given about as much."""
HARMFUL_SKEW = 60.0
_LATE_BEAT = 20.0
"""Seconds: a kubelet renews its Lease every ten; an older one is as likely to be a kubelet that is slow."""


def tool_lines(facts: Facts, least_helm: Version) -> Iterator[Line]:
    """Programs, registry, clocks."""
    yield _helm_line(facts, least_helm)
    yield _kubectl_line(facts)
    yield registry_line(facts)
    yield clock_line(facts)


def _helm_line(facts: Facts, least: Version) -> Line:
    wanted = f"{'.'.join(str(number) for number in least)} or later"
    tool = facts.tools.get("helm")
    remedy = "https://helm.sh/docs/intro/install/"
    if tool is None or tool.problem:
        why = f"The chart is installed with it, and {tool.problem if tool else 'it was not looked for'}."
        return Line(check="helm", verdict=Verdict.FAIL, seen="not found", wanted=wanted, why=why, remedy=remedy)
    if version_of(tool.version) < least:
        why = "Kasm's chart is made for newer ones."
        return Line(check="helm", verdict=Verdict.FAIL, seen=tool.version, wanted=wanted, why=why, remedy=remedy)
    return Line(check="helm", verdict=Verdict.PASS, seen=tool.version, wanted=wanted)


def _kubectl_line(facts: Facts) -> Line:
    wanted = "at most one minor version from the cluster's"
    tool = facts.tools.get("kubectl")
    remedy = "https://kubernetes.io/docs/tasks/tools/ ; on a K3s server: k3s kubectl"
    if tool is None or tool.problem:
        why = f"Remedies are given as kubectl commands, and {tool.problem if tool else 'it was not looked for'}."
        return Line(check="kubectl", verdict=Verdict.WARN, seen="not found", wanted=wanted, why=why, remedy=remedy)
    versions = [(one.get("status") or {}).get("nodeInfo", {}).get("kubeletVersion", "") for one in facts.all("nodes")]
    minors = {version_of(one)[1] for one in versions if any(letter.isdigit() for letter in one)}
    own = version_of(tool.version)[1]
    if any(abs(own - one) > 1 for one in minors):
        why = f"The cluster has {', '.join(sorted(set(versions)))}; further apart nobody promises that it works."
        return Line(check="kubectl", verdict=Verdict.WARN, seen=tool.version, wanted=wanted, why=why, remedy=remedy)
    return Line(check="kubectl", verdict=Verdict.PASS, seen=tool.version, wanted=wanted)


def registry_line(facts: Facts) -> Line:
    """Whether it answers here. Nodes may have other ways (proxy, mirror), which are not seen from here."""
    wanted = "answers 200 or 401 at /v2/"
    found = facts.registry
    if found is None:
        return unread_line("registry", wanted, Unread("The registry was not asked.", "vdi kasm preflight"))
    remedy = (
        f"curl -I {found.url}; behind a proxy set HTTPS_PROXY for k3s (/etc/systemd/system/k3s.service.env); without"
        " the Internet a mirror in /etc/rancher/k3s/registries.yaml, and --registry with its URL here"
    )
    if not found.status:
        why = f"Images could not be pulled from this machine: {found.problem}. Nodes may have another way."
        return Line(
            check="registry",
            verdict=Verdict.FAIL,
            seen=f"{found.url}: no answer",
            wanted=wanted,
            why=why,
            remedy=remedy,
        )
    seen = f"{found.url}: {found.status}"
    if found.status == 429:
        why = (
            "The registry is there, but has had too many requests from this address (Docker Hub's limit for anonymous)."
        )
        how = "log in: Secret of type dockerconfigjson and imagePullSecrets, or registries.yaml"
        return Line(check="registry", verdict=Verdict.WARN, seen=seen, wanted=wanted, why=why, remedy=how)
    if found.status not in (200, 401):
        why = "Something answers that is no registry (a proxy's page, perhaps)."
        return Line(check="registry", verdict=Verdict.FAIL, seen=seen, wanted=wanted, why=why, remedy=remedy)
    if not found.trusted:
        why = "Its certificate is not one that this machine trusts; containerd refuses it too unless told otherwise."
        how = "configs.REGISTRY.tls.ca_file in /etc/rancher/k3s/registries.yaml on every node"
        return Line(check="registry", verdict=Verdict.WARN, seen=seen, wanted=wanted, why=why, remedy=how)
    return Line(check="registry", verdict=Verdict.PASS, seen=seen, wanted=wanted)


def clock_line(facts: Facts) -> Line:
    """This machine's clock and the nodes' against the API server's."""
    clocks = facts.clocks
    wanted = f"within {NOTICED_SKEW:g} s of the API server's"
    if clocks.here is None:
        problem = clocks.problem or "the API server gave no time"
        return unread_line("clock", wanted, Unread(f"Clocks were not compared: {problem}.", "timedatectl status"))
    seen = f"this machine {round(clocks.here):+d} s"
    behind = {name: skew for name, skew in clocks.nodes.items() if skew < -_LATE_BEAT}
    ahead = {name: skew for name, skew in clocks.nodes.items() if skew > NOTICED_SKEW}
    wrong = {**behind, **ahead}
    seen += f", {counted(len(clocks.nodes), 'node')} by the heartbeat" if clocks.nodes else ", no node's heartbeat read"
    seen += "".join(f"; node {name} {round(skew):+d} s" for name, skew in sorted(wrong.items()))
    if abs(clocks.here) <= NOTICED_SKEW and not wrong:
        return Line(check="clock", verdict=Verdict.PASS, seen=seen, wanted=wanted)
    far = max([abs(clocks.here), *(abs(skew) for skew in wrong.values())])
    why = "Certificates and signed tokens (sessions, agents, SAML, one-time passwords) are refused when clocks differ."
    if behind:
        why += " A node that seems behind may also have a kubelet that has stopped."
    return Line(
        check="clock",
        verdict=Verdict.FAIL if far > HARMFUL_SKEW else Verdict.WARN,
        seen=seen,
        wanted=wanted,
        why=why,
        remedy="timedatectl set-ntp true   (here and on every node; look with: timedatectl status)",
    )
