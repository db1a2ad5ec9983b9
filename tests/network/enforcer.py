"""A stand-in for a network plugin that enforces NetworkPolicies, on the embedded cluster's nodes,
which have none.

It asks the evaluator (cyclonus) what the policies mean for every pair of pods and every port that
is of interest. What is denied becomes a DROP in each node's own network namespace, where each
packet between pods passes after kube-proxy has put in a pod's address for that of a Service. It
looks twice a second, so a new pod is open for a moment, as with other plugins. It knows IPv4 alone,
and only the ports that it is given.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from network.evaluate import Policy, ask
from network.roles import Port, Question, Role

CHAIN = "VDI-TEST-POLICIES"
PORTS = (
    *(Port(number) for number in (53, 80, 443, 5432, 6379, 6443, 8080, 8081, 8082, 9999)),
    Port(53, "UDP"),
)
OUTSIDE = ("169.254.169.254", "1.1.1.1")
Object = dict[str, Any]


@dataclass(frozen=True)
class Nodes:
    """The nodes to read from and to write to."""

    kubectl: list[str]
    # A process in the network namespace of each node.
    kubelets: tuple[int, ...]
    # The first node's, which the API server listens on.
    address: str

    def read(self) -> tuple[list[Policy], list[Role]]:
        """The cluster's policies, and who there is."""
        answer = subprocess.run(
            [*self.kubectl, "get", "networkpolicies,pods", "--all-namespaces", "-o", "json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        items = json.loads(answer.stdout)["items"]
        policies = [
            {
                "metadata": {
                    "name": each["metadata"]["name"],
                    "namespace": each["metadata"]["namespace"],
                }
            }
            | {"spec": each["spec"]}
            for each in items
            if each["kind"] == "NetworkPolicy"
        ]
        pods = [role_of(each) for each in items if each["kind"] == "Pod" and has_address(each)]
        outside = [Role(ip, ip, PORTS, sends=False) for ip in (self.address, *OUTSIDE)]
        return policies, [*pods, *outside]

    def write(self, rules: list[str]) -> None:
        """Put these rules in the place of those that were."""
        text = "\n".join(["*filter", f":{CHAIN} - [0:0]", *rules, "COMMIT", ""])
        self.inside("iptables-restore", "--noflush", given=text)

    def inside(self, *words: str, given: str = "") -> None:
        """Run a program in the network namespace of each node."""
        for kubelet in self.kubelets:
            command = ["nsenter", "--target", str(kubelet), "--net", *words]
            subprocess.run(
                command, input=given, text=True, capture_output=True, check=True, timeout=30
            )


def has_address(pod: Object) -> bool:
    """Whether packets of this pod can be distinguished from others."""
    return bool(pod["status"].get("podIP")) and not pod["spec"].get("hostNetwork")


def role_of(pod: Object) -> Role:
    """The pod with all the ports of interest, by the names that it has for them."""
    meta, spec = pod["metadata"], pod["spec"]
    given = {
        port["containerPort"]: port.get("name", "")
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    ports = tuple(Port(port.number, port.protocol, given.get(port.number, "")) for port in PORTS)
    labels = tuple(sorted(meta.get("labels", {}).items()))
    return Role(
        meta["name"], pod["status"]["podIP"], ports, meta["namespace"], labels, is_ours=True
    )


def rules_of(policies: list[Policy], roles: list[Role]) -> list[str]:
    """The denials as rules: one for a pair that may not talk at all, else one for each port."""
    asked = [
        Question(source, target, port)
        for source in roles
        for target in roles
        if source.sends and source is not target
        for port in target.ports
    ]
    (answers,) = ask(asked, [policies])
    denied: dict[tuple[str, str], list[Port]] = {}
    for question, answer in zip(asked, answers, strict=True):
        if answer != "y":
            denied.setdefault((question.source.ip, question.target.ip), []).append(question.port)
    rules = [f"-A {CHAIN} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]
    for (source, target), ports in denied.items():
        pair = f"-A {CHAIN} -s {source} -d {target}"
        if len(ports) == len(PORTS):
            rules.append(f"{pair} -j DROP")
        else:
            rules += [
                f"{pair} -p {port.protocol.lower()} --dport {port.number} -j DROP" for port in ports
            ]
    return rules


@contextmanager
def enforced(nodes: Nodes) -> Iterator[None]:
    """Enforcement of the cluster's policies while the context lasts. Raises what went wrong
    meanwhile.
    """
    nodes.write([])
    for hook in ("FORWARD", "INPUT"):
        nodes.inside("iptables", "--insert", hook, "--jump", CHAIN)
    ended, trouble = threading.Event(), list[BaseException]()

    def follow() -> None:
        before: Any = None
        try:
            while not ended.wait(0.5):
                if (now := nodes.read()) != before:
                    nodes.write(rules_of(*now))
                    before = now
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for hook in ("FORWARD", "INPUT"):
            nodes.inside("iptables", "--delete", hook, "--jump", CHAIN)
        nodes.inside("iptables", "--flush", CHAIN)
        nodes.inside("iptables", "--delete-chain", CHAIN)
    if trouble:
        raise trouble[0]
