"""Stage of the chaos suite: a namespace with templates, roomy nodes, a played kubelet, and the
checker.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from chaos.agents import agents
from chaos.checker import Checker
from chaos.fault_proxy import Call, FaultProxy, LeaseAudit
from chaos.kubelet import Kubelet
from chaos.objects import SeenPod
from chaos.provisioner import Provisioner
from cluster.operator_stage import Object, Stage, open_stage
from support.waiting import eventually
from vdi.api.session import VDISession
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.config import ClusterConfig, load_config
from vdi.kube.errors import AlreadyExists, KubeError, NotFound
from vdi.kube.resource import PODS, SECRETS, Resource
from vdi.session.naming import home_claim_name

GPUS = 8
ROOMY = {"cpu": "2000", "memory": "8000Gi", "pods": "4000"}
_CPU_ONLY: Object = {"resources": {"defaultGPU": 0}}
_NO_HOME: Object = {"persistence": {"enabled": False}}


@dataclass
class ChaosWorld:
    """Sessions are named after the flow and the fault that they are for; each has a user of its own
    unless given.
    """

    stage: Stage
    proxy: FaultProxy
    audit: LeaseAudit
    checker: Checker
    kubelet: Kubelet
    upstream: ClusterConfig
    templates: dict[str, str] = field(default_factory=dict)
    # By session: whose it is.
    users: dict[str, str] = field(default_factory=dict)
    # By session: what a flow wants to remember.
    notes: dict[str, str] = field(default_factory=dict)
    pools: list[str] = field(default_factory=list)
    _subjects: dict[str, str] = field(default_factory=dict)

    async def template(self, kind: str, **spec: Any) -> str:
        """A template of this world by a short name, made when it is first asked for."""
        if kind not in self.templates:
            self._subjects[f"{self.stage.namespace}-{kind}"] = kind
            base: Object = {"placement": {"nodeSelector": self.stage.here}}
            self.templates[kind] = await self.stage.template_named(
                f"{self.stage.namespace}-{kind}", **(base | spec)
            )
        return self.templates[kind]

    async def plain(self) -> str:
        """Desktops without GPU and home."""
        return await self.template("plain", **_CPU_ONLY, **_NO_HOME)

    async def with_gpu(self) -> str:
        """Desktops with a GPU, without home: there are `GPUS` of them in the world."""
        if "gpu" not in self.templates:
            await self.stage.node("gpus", gpu=str(GPUS))
        return await self.template("gpu", **_NO_HOME)

    async def resting(self) -> str:
        """Desktops without GPU and home that are suspended when their time is over."""
        return await self.template(
            "resting", **_CPU_ONLY, **_NO_HOME, lifecycle={"onTimeout": "Suspend"}
        )

    async def pooled(self, ready: int = 50) -> str:
        """Desktops that a pool keeps ready."""
        if "pooled" not in self.templates:
            await self.template("pooled", **_CPU_ONLY, **_NO_HOME)
            await self.pool(f"{self.stage.namespace}-pool", self.templates["pooled"], ready)
        return self.templates["pooled"]

    async def pool(self, name: str, template: str, ready: int) -> None:
        self.pools.append(name)
        spec = {"template": template, "replicas": ready}
        body = {
            "apiVersion": POOLS.api_version,
            "kind": "VDIPool",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.persist(lambda: self.stage.api.create(POOLS, body, into=msgspec.Raw))

    async def homely(self) -> str:
        """Desktops with a home, without GPU."""
        return await self.template("homely", **_CPU_ONLY)

    async def create(self, name: str, template: str, *, user: str = "", **spec: Any) -> None:
        """Make a session; again and again until the API server has it."""
        owner = user or f"{name}@example.com"
        self.users[name] = owner
        self._subjects[name] = self._subjects[f"{name}-auth"] = name
        if not user:
            claim = home_claim_name(session_name=name, user=owner, template=template, retain=True)
            self._subjects[claim] = name

        async def create() -> bool:
            try:
                await self.stage.session(name, template, user=owner, **spec)
            except AlreadyExists:
                return True
            except KubeError:
                return False
            return True

        await eventually(create, f"{name} is made", 60)

    async def edit(self, name: str, **spec: Any) -> bool:
        """Change a session's spec; False when there is no such session any more."""
        return await self.persist(lambda: self.stage.patch(SESSIONS, name, {"spec": spec}))

    async def delete(self, name: str) -> bool:
        return await self.persist(lambda: self.stage.delete(SESSIONS, name))

    async def persist(self, act: Callable[[], Any]) -> bool:
        """Do something to the API server, which may be away just now; False when the object is
        gone.
        """
        found = True

        async def attempt() -> bool:
            nonlocal found
            try:
                await act()
            except NotFound:
                found = False
            except AlreadyExists:
                return True
            except KubeError:
                return False
            return True

        await eventually(attempt, "the API server does as asked", 60)
        return found

    def session(self, name: str) -> VDISession | None:
        """The session as the checker sees it."""
        return self.checker.sessions.get(self.stage.namespace, name)

    async def reach(self, name: str, phase: str, seconds: float = 60.0) -> VDISession:

        def look() -> VDISession | None:
            session = self.session(name)
            return session if session and session.status.phase == phase else None

        try:
            return await eventually(look, f"{name} is {phase}", seconds)
        except AssertionError as late:
            session, pod = self.session(name), self.find_pod(name)
            seen = pod and await self.stage.get(PODS, pod.metadata.name)
            said = seen and {"node": seen["spec"].get("nodeName"), **seen.get("status", {})}
            raise AssertionError(
                f"{late}; it is {session and msgspec.to_builtins(session.status)}, its pod {said}"
            ) from None

    def find_pod(self, name: str) -> SeenPod | None:
        """The session's pod that is to stay."""
        session = self.session(name)
        pods = self.checker.pods.by_index("session", session.metadata.uid) if session else []
        return next((pod for pod in pods if not pod.leaving), None)

    def pod(self, name: str) -> SeenPod:
        """The session's pod, which must be there."""
        pod = self.find_pod(name)
        assert pod, f"{name} has no pod"
        return pod

    def waiting_in(self, pool: str) -> int:
        """Ready desktops of a pool that no session has claimed."""
        return sum(pod.ready and not pod.session_uids for pod in self._made_by("VDIPool", pool))

    def members_of(self, pool: str) -> tuple[int, int]:
        """Unclaimed desktops of a pool, and Secrets made for them."""
        pods = {pod.metadata.uid for pod in self._made_by("VDIPool", pool)}
        secrets = self.checker.children[SECRETS.kind].values()
        of_it = [
            secret
            for secret in secrets
            if secret.metadata.labels.get("vdi.kasm.io/pool") == pool and not secret.session_uids
        ]
        return len(pods), len(
            [one for one in of_it if "vdi.kasm.io/session" not in one.metadata.labels]
        )

    def pullers_of(self, template: str) -> list[SeenPod]:
        return self._made_by("VDITemplate", template)

    def _made_by(self, kind: str, name: str) -> list[SeenPod]:
        owners = (
            (pod, owner)
            for pod in self.checker.pods.values()
            for owner in pod.metadata.owner_references
        )
        return [pod for pod, owner in owners if (owner.kind, owner.name) == (kind, name)]

    async def persist_get(self, resource: Resource, name: str) -> Object | None:
        """A cluster-scoped object; None while the API server is away, too."""
        try:
            return await self.stage.api.get(resource, name, into=dict)
        except KubeError:
            return None

    async def gone(self, name: str, seconds: float = 60.0) -> None:
        await eventually(lambda: self.session(name) is None, f"{name} is gone", seconds)

    async def orderly(self, seconds: float = 20.0) -> None:
        """Wait until there is neither orphan nor duplicate, and nothing was wrong in between
        either.
        """
        try:
            await eventually(lambda: not self.checker.disorder(), "order", seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.checker.disorder()[:9]}") from None
        self.checker.check_zombies()
        assert not self.checker.violations, "\n".join(self.checker.violations)
        assert not self.audit.overlaps, "\n".join(self.audit.overlaps[:20])

    def subject_of(self, call: Call) -> str | None:
        """The session or template that a call of the operator is about."""
        if call.watch or "/events" in call.path or "/leases" in call.path:
            return None
        last = call.path.removesuffix("/status").rsplit("/", 1)[-1]
        body: Object = msgspec.json.decode(call.body) if call.body.startswith(b"{") else {}
        metadata = body.get("metadata") or {}
        if call.method == "POST":
            last = metadata.get("name", "")
        labels = metadata.get("labels") or {}
        if session := labels.get("vdi.kasm.io/session"):
            self._subjects[last] = session  # a pool's desktop becomes this session's
        for label in ("vdi.kasm.io/prepull", "vdi.kasm.io/pool"):
            if label in labels and last not in self._subjects:
                self._subjects[last] = self._subjects.get(labels[label], labels[label])
        if "/vditemplates/" in call.path or "/vdipools/" in call.path:
            return self._subjects.get(last, last)
        return self._subjects.get(last)


@asynccontextmanager
async def open_world(
    kubeconfig: Path, namespace: str, folder: Path, seed: int = 1
) -> AsyncIterator[ChaosWorld]:
    """A world with one roomy node; all that it made goes at its end."""
    upstream = load_config(kubeconfig)
    audit = LeaseAudit()
    async with open_stage(kubeconfig, namespace, folder) as stage:
        proxy = FaultProxy(upstream, audit=audit)
        proxy.user = stage.proxy.user
        checker = Checker(stage.api, namespace)
        kubelet = Kubelet(stage.api, namespace, random.Random(seed))
        homes = Provisioner(stage.api, namespace)
        async with proxy.serve(), checker.watching(), kubelet.at_work(), homes.at_work(), agents():
            stage.proxy = proxy
            await stage.node("roomy", gpu="0", has=ROOMY)
            world = ChaosWorld(stage, proxy, audit, checker, kubelet, upstream)
            yield world
            for session in checker.sessions.values():
                patch = {"metadata": {"finalizers": None}}
                await world.persist(partial(stage.patch, SESSIONS, session.metadata.name, patch))
        for name in world.pools:
            await world.persist(lambda name=name: stage.api.delete(POOLS, name, into=dict))  # type: ignore[misc]
        for name in world.templates.values():
            await world.persist(lambda name=name: stage.api.delete(TEMPLATES, name, into=dict))  # type: ignore[misc]
