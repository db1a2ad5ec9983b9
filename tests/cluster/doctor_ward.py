"""Stage of the doctor: a namespace of a real API server with a working operator, and ways to break
it.
"""

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cluster.control_plane import SERVICE_ACCOUNTS
from cluster.operator_stage import RBAC, Object, Stage
from support.bundles import renamed
from support.clock import ShiftedClock
from support.permissions import operator_rules
from support.waiting import eventually
from vdi.cluster.units import format_time
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import BUDGET, collect
from vdi.findings.model import Finding, Severity, roots
from vdi.kube.config import ClusterConfig
from vdi.kube.resource import DEPLOYMENTS, PODS, Resource
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope, Snapshot, load, save
from vdi.snapshot.redact import redact

_READING = ("get", "describe")
_CHANGING = ("delete", "patch", "scale", "label", "annotate", "taint", "uncordon")
# The doctor and the operator look at the cluster from so far in the future: what is wrong has been
# so for a while.
LATER = timedelta(seconds=100)


@dataclass
class DoctorStage:
    """A stage, and the doctor's way to it."""

    stage: Stage
    patch: pytest.MonkeyPatch
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    later: timedelta = LATER
    # How kubectl is called: then the commands of each remedy that is found are tried.
    kubectl: list[str] | None = None
    # What `finds` has seen last.
    top: list[Finding] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.stage.namespace

    async def deploy(self, *, ready: bool = True, **settings: str) -> str:
        """The operator as the chart installs it, its pod played by the test; gives the pod's
        name.
        """
        await self.apply_rights()
        env = {"VDI_NAMESPACE": self.namespace, **settings}
        pod = await self.workload("vdi-operator", env, ready=ready)
        self.patch.setattr("vdi.operator.runtime.socket.gethostname", lambda: pod)
        return pod

    async def apply_rights(self) -> None:
        """Grant the operator's account its rights."""
        name, api = f"vdi-operator-{self.namespace}", self.stage.api
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "vdi-operator"},
        }
        await api.apply(
            SERVICE_ACCOUNTS, "vdi-operator", account, namespace=self.namespace, into=msgspec.Raw
        )
        about = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name}}
        subject = {"kind": "ServiceAccount", "name": "vdi-operator", "namespace": self.namespace}
        for kind, rules in operator_rules().items():
            namespace = self.namespace if kind == "Role" else None
            role: Object = {**about, "kind": kind, "rules": rules}
            binding: Object = {**about, "kind": f"{kind}Binding", "subjects": [subject]}
            binding["roleRef"] = {"kind": kind, "name": name, "apiGroup": RBAC}
            for body in (role, binding):
                word = body["kind"]
                resource = Resource(
                    RBAC, "v1", f"{word.lower()}s", word, namespaced=namespace is not None
                )
                await api.apply(resource, name, body, namespace=namespace, into=msgspec.Raw)

    async def workload(
        self,
        name: str,
        env: dict[str, str],
        *,
        ports: dict[str, int] | None = None,
        ready: bool = True,
    ) -> str:
        """A Deployment of one replica; its pod is made ready by the test."""
        labels = {"app": name}
        container: Object = {"name": name.removeprefix("vdi-"), "image": "localhost/vdi/vdi:dev"}
        container["env"] = [{"name": key, "value": value} for key, value in env.items()]
        container["ports"] = [
            {"name": key, "containerPort": number} for key, number in (ports or {}).items()
        ]
        spec: Object = {"containers": [container]}
        if name == "vdi-operator":
            spec["serviceAccountName"] = name
        template = {"metadata": {"labels": labels}, "spec": spec}
        body: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
        body["spec"] = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        await self.stage.api.create(DEPLOYMENTS, body, namespace=self.namespace, into=msgspec.Raw)

        async def pod() -> str:
            metas = [one["metadata"] for one in await self.stage.all(PODS)]
            return next(
                (meta["name"] for meta in metas if meta.get("labels", {}).get("app") == name), ""
            )

        found = await eventually(pod, f"pod of {name}")
        if ready:
            await self.make_ready(found)

            async def counted() -> bool:
                deployment = await self.stage.get(DEPLOYMENTS, name)
                return bool(deployment and deployment.get("status", {}).get("readyReplicas"))

            await eventually(counted, f"{name} is ready")
        return found

    async def clear(self) -> None:
        """Take away what a later test's doctor would see, since it looks at all namespaces."""
        for one in await self.stage.all(DEPLOYMENTS):
            await self.stage.delete(DEPLOYMENTS, one["metadata"]["name"])

    async def make_ready(self, pod: str) -> None:
        """Play the kubelet: it runs, answers, and has an address."""
        at = format_time(datetime.now(UTC))
        container = {
            "name": "desktop",
            "image": "x",
            "imageID": "x",
            "ready": True,
            "restartCount": 0,
        }
        container |= {"state": {"running": {"startedAt": at}}}
        status = {
            "phase": "Running",
            "podIP": "10.42.0.9",
            "podIPs": [{"ip": "10.42.0.9"}],
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": at},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at},
            ],
            "containerStatuses": [container],
        }
        await self.stage.patch(PODS, pod, {"status": status}, subresource="status")

    async def running(self, name: str, template: str, **spec: Any) -> Object:
        """A session that runs."""
        session = await self.stage.session(name, template, **spec)
        await self.make_ready((await self.stage.pod_of(session))["metadata"]["name"])
        return await self.stage.reach(name, "Running")

    @asynccontextmanager
    async def at_work(self, **settings: Any) -> AsyncIterator[None]:
        """The operator's process, which leads as the pod that `deploy` has made."""
        self.clock.ahead = self.later
        async with self.stage.operator(self.clock, **settings):
            yield

    async def look(self, *, user: str = "") -> list[Finding]:
        """A run of the doctor; its bundle, saved and loaded, gives the same findings, with other
        names for people.
        """
        snapshot = await self.snapshot(user=user)
        findings = run_checks(snapshot)
        replayed = run_checks(load(save(redact(snapshot))))
        assert renamed(findings, snapshot) == replayed
        assert b"alice@example.com" not in save(redact(snapshot))
        return findings

    async def snapshot(self, *, user: str = "") -> Snapshot:
        """The doctor's snapshot, within its budget of requests."""
        self.clock.ahead = self.later
        requests: list[str] = []
        config: ClusterConfig = self.stage.api.config
        if user:
            self.stage.proxy.user = user
            config = ClusterConfig(server=self.stage.proxy.url)
        count = lambda method, plural, status, seconds: requests.append(plural)  # noqa: E731
        async with Client(config, field_manager="doctor", on_request=count) as client:
            found = await collect(client, Scope(self.namespace), self.clock)
        # And logs that could not be read.
        assert len(requests) - len(found.logs) <= BUDGET + 3, requests
        return found

    def of_here(self, findings: list[Finding]) -> list[Finding]:
        """Without what other tests of the same cluster have left behind."""
        return [
            finding
            for finding in findings
            if self.namespace in f"{finding.object} {finding.message}"
            or finding.severity is Severity.UNKNOWN
        ]

    async def finds(self, code: str) -> Finding:
        """Wait until the doctor's top finding has this code."""

        async def look() -> Finding | None:
            top = roots(self.of_here(await self.look()))
            self.top = top
            return top[0] if top and top[0].code == code else None

        try:
            found = await eventually(look, f"the top finding is {code}")
        except AssertionError as error:
            reported = [f"{one.key}: {one.message}" for one in self.top]
            raise AssertionError(f"{error}; they are {reported}") from None
        for command in found.remedy.commands:
            await self._try(command)
        return found

    async def _try(self, command: str) -> None:
        """A command of a remedy, pasted unchanged; what changes something is only tried by the API
        server.
        """
        words = shlex.split(command)
        verb = next((word for word in words if word in (*_READING, *_CHANGING)), "")
        if words[0] != "kubectl" or not verb or "|" in words or self.kubectl is None:
            return
        given = [*self.kubectl, *words[1:], *(["--dry-run=server"] if verb in _CHANGING else [])]
        run = await asyncio.create_subprocess_exec(
            *given, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, error = await asyncio.wait_for(run.communicate(), 30)
        assert run.returncode == 0, f"{command}: {error.decode()}"
