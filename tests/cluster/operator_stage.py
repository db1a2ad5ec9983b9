"""Stage of the operator's cluster tests: rights, a kubelet (the test itself), an operator to start
and stop.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cluster.operator_proxy import Proxy
from cluster.stand_in import ROOM, add_node, remove_node
from support.desktop_key import DATA, KEY
from support.metrics_token import token_file
from support.permissions import operator_rules, operator_rules_elsewhere
from support.waiting import PATIENCE, eventually
from vdi.cluster.units import format_time
from vdi.kinds import POOLS, ROUTES, SESSIONS, TEMPLATES
from vdi.kube.clock import SystemClock
from vdi.kube.config import ClusterConfig, load_config
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, EVENTS, LEASES, NAMESPACES, PODS, SECRETS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY
from vdi.operator.runtime import LEASE, run_operator
from vdi.session.naming import host_label
from vdi.settings import Settings

CHILDREN = {"pod": PODS, "service": SERVICES, "secret": SECRETS, "route": ROUTES, "home": CLAIMS}
Object = dict[str, Any]
# Label of a stage's own nodes, with its namespace.
STAGE = "vdi.test/stage"
RBAC = "rbac.authorization.k8s.io"
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
_RUN = (
    "import sys; from vdi.cli.main import main; sys.exit(main(['operator', 'run', '--kubeconfig',"
    " sys.argv[1]]))"
)


def condition(session: Object, kind: str) -> Object:
    """The condition of this type in a session's status."""
    found: Object = next(one for one in session["status"]["conditions"] if one["type"] == kind)
    return found


@dataclass
class Stage:
    """A namespace of a real API server, and the test's own way to it."""

    api: Client
    namespace: str
    proxy: Proxy
    folder: Path
    # Names of the nodes that `node` made.
    nodes: list[str] = field(default_factory=list)
    # Another namespace of sessions of the same operator; empty: it has one.
    second: str = ""
    # Settings of an operator that is a process of its own.
    variables: dict[str, str] = field(default_factory=dict)

    def of(self, namespace: str) -> "Stage":
        """The same cluster and operator, looked at in another of its namespaces."""
        return replace(self, namespace=namespace)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that the operator works in."""
        return tuple(filter(None, (self.namespace, self.second)))

    async def make_keys(self) -> None:
        """Before the first operator does, whose requests are then those for sessions alone."""
        for name in (HOST_KEY, DESKTOP_KEY):
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": DATA}
            await self.api.apply(SECRETS, name, body, namespace=self.namespace, into=msgspec.Raw)

    def host(self, name: str, user: str = "alice@example.com") -> str:
        """The host of a session that chooses none."""
        label = host_label(namespace=self.namespace, session_name=name, user=user, key=KEY)
        return f"{label}.vdi.localhost"

    async def grant(self) -> None:
        """Let the operator do what tests/support/permissions.yaml grants it, and nothing else."""
        first = operator_rules()
        await self.allow(None, first["ClusterRole"])
        await self.allow(self.namespace, first["Role"])
        if self.second:
            await self.allow(self.second, operator_rules_elsewhere())
        self.proxy.user = f"operator-of-{self.namespace}"

    async def allow(self, namespace: str | None, rules: list[Object]) -> None:
        """Give the operator rights in a namespace; None: in all of them."""
        user, kind = f"operator-of-{self.namespace}", "Role" if namespace else "ClusterRole"
        metadata = {"name": user} | ({"namespace": namespace} if namespace else {})
        role: Object = {
            "apiVersion": f"{RBAC}/v1",
            "kind": kind,
            "metadata": metadata,
            "rules": rules,
        }
        binding: Object = {
            **role,
            "kind": f"{kind}Binding",
            "subjects": [{"kind": "User", "name": user}],
        }
        binding |= {"roleRef": {"kind": kind, "name": user, "apiGroup": RBAC}}
        del binding["rules"]
        for body_kind, body in ((kind, role), (f"{kind}Binding", binding)):
            resource = Resource(
                RBAC, "v1", f"{body_kind.lower()}s", body_kind, namespaced=namespace is not None
            )
            await self.api.apply(resource, user, body, namespace=namespace, into=msgspec.Raw)

    async def restrict(self) -> None:
        """Pod Security level `restricted`."""
        level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        await self.api.patch(NAMESPACES, self.namespace, level, into=msgspec.Raw)

    async def template(self, **spec: Any) -> str:
        """Make a template that is this stage's own; gives its name."""
        return await self.template_named(f"{self.namespace}-desktop", **spec)

    async def template_named(self, name: str, **spec: Any) -> str:
        """Make a template; the stage removes it at its end when its name begins with the
        namespace's.
        """
        return await self._make(
            TEMPLATES, name, {"image": "registry.example.com/desktop:1", **spec}
        )

    async def pool(self, template: str, replicas: int, **spec: Any) -> str:
        """Make a pool that is this stage's own; gives its name."""
        return await self._make(
            POOLS, f"{self.namespace}-pool", {"template": template, "replicas": replicas, **spec}
        )

    async def _make(self, resource: Resource, name: str, spec: Object) -> str:
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.create(resource, body, into=msgspec.Raw)
        return name

    @property
    def here(self) -> dict[str, str]:
        """Label of this stage's own nodes; as a template's `placement.nodeSelector` it keeps
        desktops on them.
        """
        return {STAGE: self.namespace}

    async def node(
        self,
        suffix: str,
        *,
        gpu: str = "64",
        has: Mapping[str, str] | None = None,
        taints: Sequence[Object] = (),
    ) -> str:
        """Make a node that is this stage's own and stays Ready; gives its name. `has` replaces
        amounts of `ROOM`.
        """
        name = f"{self.namespace}-{suffix}"
        room = {**ROOM, "nvidia.com/gpu": gpu, **(has or {})}
        await add_node(self.api, name, room, labels=self.here, taints=taints)
        self.nodes.append(name)
        return name

    async def session(self, name: str, template: str, **spec: Any) -> Object:
        """Make a session of alice's."""
        body = {
            "apiVersion": SESSIONS.api_version,
            "kind": "VDISession",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"user": "alice@example.com", "template": template, **spec},
        }
        return await self.api.create(SESSIONS, body, namespace=self.namespace, into=dict)

    async def start(self, name: str, template: str, **spec: Any) -> Object:
        """Make a session of alice's and play the kubelet until it runs."""
        await self.session(name, template, **spec)
        return await self.run(name)

    def _in(self, resource: Resource) -> str | None:
        return self.namespace if resource.namespaced else None

    async def get(self, resource: Resource, name: str) -> Object | None:
        """One object, or None."""
        try:
            return await self.api.get(resource, name, namespace=self._in(resource), into=dict)
        except NotFound:
            return None

    async def until(
        self,
        resource: Resource,
        name: str,
        holds: Callable[[Object], object] = bool,
        what: str = "",
        seconds: float = PATIENCE,
    ) -> Object:
        """Wait until there is such an object and this holds for it."""

        async def look() -> Object | None:
            found = await self.get(resource, name)
            return found if found and holds(found) else None

        try:
            return await eventually(look, f"{resource.kind} {name}: {what}", seconds)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; it is {(await self.get(resource, name) or {}).get('status')}"
            ) from None

    async def all(self, resource: Resource) -> list[Object]:
        """All objects of a kind in the namespace."""
        return await self.api.list(resource, namespace=self.namespace, into=dict)

    async def owned(self, resource: Resource, session: Object) -> list[Object]:
        """Objects that name this session as their owner."""
        uid, found = session["metadata"]["uid"], await self.all(resource)
        return [
            one
            for one in found
            if uid in (owner["uid"] for owner in one["metadata"].get("ownerReferences", ()))
        ]

    async def pod_of(self, session: Object) -> Object:
        """Its pod, waited for."""
        return (
            await eventually(
                lambda: self.owned(PODS, session), f"pod of {session['metadata']['name']}"
            )
        )[0]

    async def make_ready(self, pod: Object) -> None:
        """Play the kubelet: the desktop runs and answers. What the scheduler has said of the pod
        stays.
        """
        live = await self.get(PODS, pod["metadata"]["name"]) or pod
        kept = [
            known
            for known in live.get("status", {}).get("conditions") or ()
            if known["type"] != "Ready"
        ]
        now = format_time(datetime.now(UTC))
        container = {
            "name": "desktop",
            "image": "x",
            "imageID": "x",
            "ready": True,
            "restartCount": 0,
        }
        container |= {"state": {"running": {"startedAt": now}}}
        conditions = [*kept, {"type": "Ready", "status": "True", "lastTransitionTime": now}]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
        await self.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")

    async def bind(self, pod: Object, node: str) -> None:
        """Play the scheduler."""
        meta = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
        bindings = Resource("", "v1", f"pods/{meta['name']}/binding", "Binding")
        await self.api.create(bindings, binding, namespace=self.namespace, into=msgspec.Raw)

    async def patch(
        self, resource: Resource, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """Merge patch."""
        namespace = self._in(resource)
        return await self.api.patch(
            resource, name, patch, namespace=namespace, subresource=subresource, into=dict
        )

    async def delete(
        self, resource: Resource, name: str, *, grace_seconds: int | None = None
    ) -> None:
        """Delete, without waiting."""
        await self.api.delete(
            resource, name, namespace=self._in(resource), grace_seconds=grace_seconds, into=dict
        )

    async def reach(
        self, name: str, phase: str, words: str = "", seconds: float = PATIENCE
    ) -> Object:
        """Wait until the session is in that phase, and its message has these words.

        A suspended session says so before its pod is deleted: waited for here, or the next run
        would be given that pod.
        """

        def is_so(session: Object) -> object:
            status = session.get("status", {})
            return status.get("phase") == phase and words in status.get("message", "")

        session = await self.until(SESSIONS, name, is_so, f"{phase} {words!r}", seconds)
        if phase == "Suspended":

            async def is_left() -> bool:
                return all(
                    "deletionTimestamp" in pod["metadata"]
                    for pod in await self.owned(PODS, session)
                )

            await eventually(is_left, f"the pod of {name} is deleted")
        return session

    async def touch(self, name: str) -> None:
        """Have the session reconciled: a test's clock that is put forward enqueues nothing."""
        await self.patch(
            SESSIONS, name, {"metadata": {"annotations": {"touched": str(time.monotonic())}}}
        )

    async def suspend(self, name: str, *, suspended: bool = True) -> None:
        await self.patch(SESSIONS, name, {"spec": {"suspended": suspended}})

    async def end(self, name: str) -> None:
        """Delete the session and wait until it is gone."""
        await self.delete(SESSIONS, name)
        await self.gone(SESSIONS, name)

    async def next_pod(self, session: Object, old: Object) -> Object:
        """Wait for a pod of the session that is not `old`."""

        async def look() -> Object | None:
            pods = await self.owned(PODS, session)
            return next(
                (pod for pod in pods if pod["metadata"]["uid"] != old["metadata"]["uid"]), None
            )

        return await eventually(look, f"another pod of {session['metadata']['name']}")

    async def podless(self, session: Object) -> None:
        """Wait until the session has no pod."""

        async def look() -> bool:
            return await self.owned(PODS, session) == []

        await eventually(look, f"{session['metadata']['name']} has no pod")

    async def event(self, reason: str, words: str = "") -> None:
        """Wait for an Event with that reason and these words."""

        async def look() -> bool:
            return any(
                one["reason"] == reason and words in one["note"] for one in await self.all(EVENTS)
            )

        await eventually(look, f"Event {reason} {words!r}")

    async def warned(self, name: str, kind: str, *, expected: bool = True) -> Object:
        """Wait until the running session has a condition of that type, or has none."""

        def is_so(session: Object) -> object:
            status = session.get("status", {})
            kinds = {one["type"] for one in status.get("conditions", ())}
            return status.get("phase") == "Running" and (kind in kinds) == expected

        return await self.until(SESSIONS, name, is_so, f"has {kind}: {expected}")

    async def quota(self, name: str, **hard: str) -> None:
        """Make a quota and wait until it is in force."""
        body = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": name},
            "spec": {"hard": hard},
        }
        await self.api.create(QUOTAS, body, namespace=self.namespace, into=msgspec.Raw)
        await self.until(
            QUOTAS, name, lambda quota: "used" in quota.get("status", {}), "it is in force"
        )

    async def run(self, name: str) -> Object:
        """Play the kubelet until the session runs."""
        session = await self.get(SESSIONS, name)
        assert session
        await self.make_ready(await self.pod_of(session))
        return await self.reach(name, "Running")

    async def gone(self, resource: Resource, name: str, seconds: float = PATIENCE) -> None:
        """Wait until there is no such object."""

        async def look() -> bool:
            return await self.get(resource, name) is None

        await eventually(look, f"{resource.kind} {name} is gone", seconds)

    async def childless(self, session: Object) -> None:
        """Wait until nothing names this session as its owner any more."""

        async def look() -> bool:
            return not [
                one for kind in CHILDREN.values() for one in await self.owned(kind, session)
            ]

        await eventually(look, f"children of {session['metadata']['name']} are gone")

    @asynccontextmanager
    async def operator(
        self, clock: SystemClock | None = None, **settings: Any
    ) -> AsyncIterator[int]:
        """Our operator, in this process, through the proxy; gives its health port. Its first lists
        are not counted.
        """
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        chosen = Settings(
            operator_namespace=self.namespace,
            namespaces=self.namespaces,
            metrics_host="127.0.0.1",
            metrics_port=0,
            metrics_token_file=token_file(self.folder),
            **settings,
        )
        config = ClusterConfig(server=self.proxy.url)

        def on_ready(port: int) -> None:
            if not ready.done():  # it has lost its lease since
                ready.set_result(port)

        work = run_operator(
            config, chosen, stop=stop, clock=clock or SystemClock(), on_ready=on_ready
        )
        task = asyncio.create_task(work)
        try:
            await asyncio.wait((task, ready), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            assert ready.done(), f"the operator did not start: {task}"
            self.proxy.passed.clear()
            yield ready.result()
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE)

    async def spawn_operator(self) -> "OperatorProcess":
        """Start our operator as a process of its own; whoever calls ends it."""
        kubeconfig = self.folder / "operator.kubeconfig"
        context = {"cluster": "c", "user": "u"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.proxy.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": context}],
            "current-context": "c",
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        source = Path(sys.modules["vdi"].__path__[0]).parent
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(source),
            "VDI_NAMESPACE": ",".join(self.namespaces),
            "VDI_OPERATOR_NAMESPACE": self.namespace,
            "VDI_METRICS_ADDR": "127.0.0.1:0",
            "VDI_METRICS_TOKEN_FILE": str(token_file(self.folder)),
            **self.variables,
        }
        run = ["-c", _RUN, str(kubeconfig)]
        with (self.folder / "operator.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *run, env=environment, stderr=log
            )
        return OperatorProcess(process)

    @asynccontextmanager
    async def operator_process(self) -> AsyncIterator["OperatorProcess"]:
        """Our operator as a process of its own; killed with SIGKILL at the end, and what it held is
        anybody's.
        """
        operator = await self.spawn_operator()
        try:
            yield operator
        finally:
            await operator.kill()
            # The dead renew no lease: who comes next need not wait until it runs out.
            with suppress(NotFound):
                await self.delete(LEASES, LEASE)


@dataclass
class OperatorProcess:
    """A running operator."""

    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def open_stage(kubeconfig: Path, namespace: str, folder: Path) -> AsyncIterator[Stage]:
    """A stage; its templates and pools are removed at the end."""
    config = load_config(kubeconfig)
    async with Client(config, field_manager="test") as api, Proxy(config).serve() as proxy:
        stage = Stage(api, namespace, proxy, folder)
        await stage.make_keys()
        await stage.grant()
        yield stage
        for node in stage.nodes:
            await remove_node(api, node)
        for kind in (POOLS, TEMPLATES):  # the next test's operator would fill the pools
            for made in await api.list(kind, into=dict):
                if made["metadata"]["name"].startswith(namespace):
                    await api.delete(kind, made["metadata"]["name"], into=dict)
        for session in await stage.all(SESSIONS):
            # The operator is gone; a namespace must not hang on the finalizer that it would have
            # dropped.
            await stage.patch(
                SESSIONS, session["metadata"]["name"], {"metadata": {"finalizers": None}}
            )
