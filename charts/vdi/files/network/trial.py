"""`helm test`: tries with real packets who may connect to whom, and says it in words
(docs/network.md).

Short-lived pods with the labels of gateway, operator, desktop and so on listen, and others like
them try to connect. None of them ever becomes ready, so no Service sends them anything. plan.json,
made by the chart, says who there is and what should get through. Exit status: 0 all as planned, 1
not, 3 it could not be tried.
"""

import http.client
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import probe

Object = dict[str, Any]
HERE = Path(__file__).parent
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
STARTS_WITHIN, TRIES_FOR = 90.0, 20.0
"""Seconds: for pods to start, and for what they see to become what is planned."""
NAME = "vdi-network"
METADATA, INTERNET = "169.254.169.254", "1.1.1.1"


class CouldNotTryError(Exception):
    """There is nothing to judge by; says why."""


class Try(NamedTuple):
    """A connection, and whether it should get through."""

    source: str
    target: str
    host: str
    port: int
    expected: bool

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (f" {self.port}" if self.port else "")


class Pods:
    """The API server, for pods: create, get, delete."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))

    def ask(
        self, method: str, namespace: str, name: str = "", body: Object | None = None
    ) -> tuple[int, Object]:
        """Status and answer. Raises OSError without a response."""
        host = os.environ["KUBERNETES_SERVICE_HOST"]
        port = int(os.environ["KUBERNETES_SERVICE_PORT"])
        line = http.client.HTTPSConnection(host, port, timeout=10, context=self._context)
        headers = {
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
            "Content-Type": "application/json",
        }
        path = f"/api/v1/namespaces/{namespace}/pods" + (f"/{name}" if name else "")
        try:
            line.request(method, path, json.dumps(body) if body else None, headers)
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            line.close()

    def make(self, pod: Object) -> None:
        """Create it; one of its name that an earlier, interrupted run has left goes first."""
        meta = pod["metadata"]
        end = time.monotonic() + STARTS_WITHIN
        while (
            status := (answer := self.ask("POST", meta["namespace"], body=pod))[0]
        ) == http.HTTPStatus.CONFLICT:
            self.remove(meta)
            if time.monotonic() > end:
                break
            time.sleep(1)
        if status != http.HTTPStatus.CREATED:
            raise CouldNotTryError(
                f"pod {meta['name']} in namespace {meta['namespace']}: {answer[1].get('message')}"
            )

    def remove(self, meta: Object) -> None:
        """Delete it at once, if it is there."""
        self.ask("DELETE", meta["namespace"], meta["name"], {"gracePeriodSeconds": 0})

    def wait(self, pod: Object, until: Callable[[Object], Any], seconds: float) -> Any:
        """What `until` gives for the pod's status once that is something. Raises
        CouldNotTryError.
        """
        meta, end, status = pod["metadata"], time.monotonic() + seconds, {}
        while time.monotonic() < end:
            status = self.ask("GET", meta["namespace"], meta["name"])[1].get("status", {})
            if (found := until(status)) is not None:
                return found
            time.sleep(0.5)
        raise CouldNotTryError(
            f"pod {meta['name']} in namespace {meta['namespace']}: {why(status)}"
        )


def why(status: Object) -> str:
    """What keeps a pod from being where it should be."""
    states = [
        state
        for each in status.get("containerStatuses", [])
        for state in each.get("state", {}).values()
    ]
    reasons = [
        f"{each['reason']}: {each.get('message', '')}" for each in states if each.get("reason")
    ]
    reasons += [each["message"] for each in status.get("conditions", []) if each.get("message")]
    return "; ".join([status.get("phase", "it is gone"), *reasons])


def address(status: Object) -> str | None:
    """A listener's, once it runs."""
    ran = [
        each for each in status.get("containerStatuses", []) if "running" in each.get("state", {})
    ]
    return status.get("podIP") if ran else None


def last_words(status: Object) -> list[bool] | None:
    """What a pod that has tried saw, once it has ended."""
    for each in status.get("containerStatuses", []):
        if ended := each.get("state", {}).get("terminated"):
            try:
                seen: list[bool] = json.loads(ended.get("message", ""))
            except ValueError as error:
                raise CouldNotTryError(f"a pod ended without a word: {ended}") from error
            return seen
    return None


class Trial:
    """The pods, and their tasks."""

    def __init__(self, plan: Object, pods: Pods) -> None:
        self._plan, self._pods, self._made = plan, pods, list[Object]()
        self._together = ThreadPoolExecutor(16)

    def run(self) -> list[tuple[Try, bool]]:
        """All connections, and whether they got through. Raises CouldNotTryError, OSError."""
        try:
            hosts = self._listen()
            seen = self._try(hosts)
            self._are_there()
            return seen
        finally:
            list(self._together.map(self._pods.remove, [pod["metadata"] for pod in self._made]))
            self._together.shutdown()

    def _listen(self) -> dict[str, str]:
        roles = {name: role for name, role in self._plan["roles"].items() if role["ports"]}
        made = [
            self._pod("to", name, {"listen": list(role["ports"].values())})
            for name, role in roles.items()
        ]
        found = self._together.map(
            lambda pod: self._pods.wait(pod, address, STARTS_WITHIN), self._start(made)
        )
        hosts = dict(zip(roles, found, strict=True))
        for name, service in self._plan["services"].items():
            hosts[name] = socket.gethostbyname(service)
        hosts |= {
            "the API server": os.environ["KUBERNETES_SERVICE_HOST"],
            "names": "",
            "cloud metadata": METADATA,
        }
        return hosts | {"the internet": INTERNET}

    def _try(self, hosts: dict[str, str]) -> list[tuple[Try, bool]]:
        planned = list(connections(self._plan, hosts))
        tries = {
            name: [one for one in planned if one.source == name] for name in self._plan["roles"]
        }
        tasks = {name: [one._asdict() for one in mine] for name, mine in tries.items() if mine}
        made = [
            self._pod("from", name, {"try": mine, "seconds": TRIES_FOR})
            for name, mine in tasks.items()
        ]
        limit = STARTS_WITHIN + TRIES_FOR + 10
        seen = self._together.map(
            lambda pod: self._pods.wait(pod, last_words, limit), self._start(made)
        )
        return [
            pair
            for name, answer in zip(tasks, seen, strict=True)
            for pair in zip(tries[name], answer, strict=True)
        ]

    def _are_there(self) -> None:
        """Those that listen still do. Raises CouldNotTryError: what reached no listener would look
        blocked.
        """
        for pod in self._made:
            if pod["metadata"]["name"].startswith(f"{NAME}-to-"):
                self._pods.wait(pod, address, 1)

    def _start(self, made: list[Object]) -> list[Object]:
        self._made += made
        list(self._together.map(self._pods.make, made))
        return made

    def _pod(self, what: str, name: str, task: Object) -> Object:
        plan, role = self._plan, self._plan["roles"][name]
        meta = {
            "name": f"{NAME}-{what}-{name}",
            "namespace": role["namespace"],
            "labels": role["labels"],
        }
        spec = {
            "nodeName": os.environ["NODE_NAME"],  # the image is there
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 300,  # if this program cannot delete it
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            # Never true: the pod is not ready, so no Service with these labels takes it for one of
            # its own.
            "readinessGates": [{"conditionType": "vdi.kasm.io/is-no-part-of-a-service"}],
            "securityContext": plan["podSecurity"],
            "containers": [
                {
                    "name": "probe",
                    "image": plan["image"],
                    "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "command": ["python", "-c", (HERE / "probe.py").read_text(), json.dumps(task)],
                    "env": [
                        {
                            "name": "POD_ADDRESS",
                            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
                        }
                    ],
                    "ports": [
                        {"name": each, "containerPort": port}
                        for each, port in role["ports"].items()
                    ],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "24Mi"},
                        "limits": {"memory": "64Mi"},
                    },
                    "securityContext": plan["containerSecurity"],
                }
            ],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def connections(plan: Object, hosts: dict[str, str]) -> Iterator[Try]:
    """All that is tried: everybody to everybody, but for what no policy of the chart decides."""
    ports = {name: list(role["ports"].values()) for name, role in plan["roles"].items()} | plan[
        "outside"
    ]
    for source, role in plan["roles"].items():
        for target in ports:
            if (
                role["ours"]
                or plan["roles"].get(target, {}).get("ours")
                or target in plan["services"]
            ):
                for port in ports[target]:
                    expected = source in plan["allowed"].get(f"{target} {port}", [])
                    yield Try(source, target, hosts[target], port, expected)


def judge(seen: list[tuple[Try, bool]], reachable: set[str]) -> tuple[list[str], int]:
    """The report, and the exit status. `reachable`: what of the outside is there at all."""
    outside = {"the API server", "names", "cloud metadata", "the internet"}
    there = [(one, through) for one, through in seen if one.target not in outside - reachable]
    wrong = [(one, through) for one, through in there if through != one.expected]
    between_pods = [
        (one, through) for one, through in there if not one.expected and one.target not in outside
    ]
    lines = list(by_source(there))
    lines += [
        f"not tried: {name} cannot be reached from here at all"
        for name in sorted(outside - reachable)
    ]
    lines.append("")
    if between_pods and all(through for _, through in between_pods):
        lines.append(
            f"THIS CLUSTER DOES NOT ENFORCE NetworkPolicies: all {len(between_pods)} connections"
            " between pods that they deny got through. Every desktop reaches every other pod and"
            " the API server. Install a network plugin that enforces them (K3s has one, unless it"
            " was started with --disable-network-policy): docs/network.md."
        )
    elif wrong:
        lines.append(
            f"{len(wrong)} of {len(there)} connections are not as the chart's NetworkPolicies"
            " have it:"
        )
        lines += [
            f"  {one}: {said(through)}, and should {ought(one.expected)}" for one, through in wrong
        ]
        lines.append(
            "Does another policy in these namespaces, or a value below `network`, say otherwise?"
        )
    else:
        lines.append(
            f"NetworkPolicies are enforced: all {len(there)} connections are as the chart has it."
        )
    return lines, 1 if wrong else 0


def by_source(seen: list[tuple[Try, bool]]) -> Iterator[str]:
    """For each whom it reaches and whom not; what is not as planned has an exclamation mark."""
    for source in dict.fromkeys(one.source for one, _ in seen):
        for through in (True, False):
            named = [
                f"{one.target}{f' {one.port}' if one.port else ''}{'' if through == one.expected else ' (!)'}"
                for one, got in seen
                if one.source == source and got == through
            ]
            yield (
                f"{source} {'reaches' if through else 'does not reach'}:"
                f" {', '.join(named) or 'nothing'}"
            )


def said(through: bool) -> str:
    """Whether it got through, in words."""
    return "gets through" if through else "is blocked"


def ought(expected: bool) -> str:
    """What it should do instead, in words."""
    return "get through" if expected else "be blocked"


def main() -> int:
    """Try, report, exit status."""
    plan = json.loads((HERE / "plan.json").read_text())
    sys.stdout.write(
        f"Pods like {', '.join(plan['roles'])} try to reach each other; this takes up to two"
        " minutes.\n"
    )
    sys.stdout.write("".join(f"not tried: {why_not}\n" for why_not in plan["notTried"]))
    try:
        seen = Trial(plan, Pods()).run()
        outside = {
            "names": ("", 0),
            "cloud metadata": (METADATA, 80),
            "the internet": (INTERNET, 443),
        }
        reachable = {name for name, (host, port) in outside.items() if probe.reaches(host, port)}
        lines, status = judge(seen, reachable | {"the API server"})
    except (CouldNotTryError, OSError) as error:
        lines, status = [f"IT COULD NOT BE TRIED: {error}"], 3
    sys.stdout.write("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
