"""A namespace in which a stand-in of Kasm is installed by helm, broken, and diagnosed."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cluster.helm_tools import Tools
from support.bundles import renamed
from support.clock import ShiftedClock
from support.waiting import wait_until
from vdi.cli.kasm import CHECKS
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import collect
from vdi.findings.model import Finding, roots
from vdi.kasm.installation import Installation
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope, Snapshot, load, save
from vdi.snapshot.redact import redact

CHARTS = Path(__file__).parent / "charts"
# Faults are looked at from so far in the future: what is wrong has been so for a while.
LATER = timedelta(seconds=100)
QUICK = {"waitSeconds": "1", "probes.initialDelaySeconds": "0", "probes.periodSeconds": "2"}
# Without which the chart of generation A is refused by Helm 4.
REPLICAS = {
    f"kasmApp.servicesToDeploy.{name}.replicas": "1"
    for name in (
        "kasmProxy",
        "kasmApi",
        "kasmManager",
        "kasmShare",
        "kasmGuac",
        "rdpGateway",
        "rdpHttpsGateway",
    )
}
Object = dict[str, Any]


def given_values(letter: str, values: dict[str, str]) -> list[str]:
    """Options of helm for a stand-in of this generation."""
    given = (REPLICAS if letter == "a" else {}) | values
    return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]


@dataclass
class KasmStage:
    """One installation."""

    tools: Tools
    namespace: str
    ahead: timedelta = LATER
    # What `finds` has seen last.
    top: list[Finding] = field(default_factory=list)

    def kubectl(self, *words: str) -> str:
        """kubectl in this namespace."""
        return self.tools.kubectl("--namespace", self.namespace, *words)

    def install(self, letter: str, **values: str) -> None:
        """The stand-in of a generation, as release `kasm`; a value's name has `__` for a dot."""
        given = QUICK | {name.replace("__", "."): value for name, value in values.items()}
        words = ["install", "kasm", str(CHARTS / letter), "--namespace", self.namespace]
        done = self.tools.helm(*words, *given_values(letter, given))
        assert done.returncode == 0, done.stderr

    def patch(self, kind: str, name: str, change: object, *, how: str = "merge") -> None:
        """Change an object."""
        self.kubectl("patch", kind, name, "--type", how, "--patch", json.dumps(change))

    def snapshot(self, ahead: timedelta = timedelta()) -> Snapshot:
        """The snapshot that `vdi kasm diagnose` reads."""
        clock = ShiftedClock()
        clock.ahead = ahead

        async def look() -> Snapshot:
            async with Client(load_config(self.tools.kubeconfig), field_manager="test") as client:
                return await collect(client, Scope(self.namespace, kasm=True), clock)

        return asyncio.run(look())

    def look(self, ahead: timedelta = timedelta()) -> list[Finding]:
        """A run of the diagnosis; its bundle, saved and loaded, gives the same findings."""
        snapshot = self.snapshot(ahead)
        findings = run_checks(snapshot, CHECKS)
        assert renamed(findings, snapshot) == run_checks(load(save(redact(snapshot))), CHECKS)
        return findings

    def is_well(self) -> bool:
        """Whether all pods are ready, and the db-init Job is done."""
        kasm = Installation(self.snapshot(), self.namespace)
        done = all(
            any(one.type == "Complete" for one in job.status.conditions) for job in kasm.jobs
        )
        return done and len(kasm.pods) >= 7 and all(pod.ready for pod in kasm.pods)

    def finds(self, code: str, where: str, *, seconds: float = 120) -> Finding:
        """Wait until the top finding has this code and is about this object:
        `kind/beginning-of-its-name`, or any.
        """
        expected = where.replace("/", f"/{self.namespace}/")

        def look() -> Finding | None:
            self.top = self.look(self.ahead)
            first = next(iter(roots(self.top)), None)
            if first and first.code == code and first.object.startswith(expected):
                return first
            # Something may happen: a run of the diagnosis at every moment would keep a core busy.
            watch = ("get", "events", "--watch-only", "--request-timeout", "1s")
            self.tools.kubectl("--namespace", self.namespace, *watch, check=False)
            return None

        try:
            return wait_until(f"the top finding is {code} about {where}", look, seconds)
        except AssertionError as error:
            explained = "\n".join(
                f"{one.key} <- {one.caused_by or '-'}: {one.message}" for one in self.top
            )
            raise AssertionError(f"{error}; they are\n{explained}") from None

    def follows(self, start: str, *expected: str) -> None:
        """From the pod whose name begins so, each finding names the next: `code
        beginning-of-the-object's-name`.
        """

        def explained() -> bool:
            chain = self._chain(start)
            return len(chain) == len(expected) and all(map(str.startswith, chain, expected))

        def look() -> bool:
            if explained():
                return True
            self.top = self.look(self.ahead)
            return explained()

        try:
            wait_until(f"what {start} follows from", look)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._chain(start)}") from None

    def _chain(self, start: str) -> list[str]:
        by_key = {one.key: one for one in self.top}
        mine = (one for one in self.top if one.object.startswith(f"pod/{self.namespace}/{start}"))
        found, chain = next(mine, None), list[str]()
        while found and found.caused_by:
            found = by_key[found.caused_by]
            chain.append(f"{found.code} {found.object.split('/')[-1]}")
        return chain

    def message_of(self, start: str) -> str:
        """The message about the pod whose name begins so."""
        found: Sequence[str] = [
            one.message
            for one in self.top
            if one.object.startswith(f"pod/{self.namespace}/{start}")
        ]
        assert found, [one.object for one in self.top]
        return found[0]
