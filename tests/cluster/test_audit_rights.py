"""Operator and gateway with nothing but the chart's rights, and the API server's audit log of what
they asked for.

Whatever they ask is granted by a role of their own, and whatever those roles grant is asked for: by
the flows below, or it is named in `NOT_ASKED_FOR` with the reason.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.edge_traefik import free_port
from cluster.gateway_stage import GatewayStage, add_people
from cluster.helm_tools import Tools
from cluster.operator_proxy import Proxy
from cluster.operator_stage import Stage
from cluster.test_gateway_portal import Person
from support.audit_log import Request, not_granted, not_used, requests_of, rights_of
from support.waiting import PATIENCE, eventually
from tools.generate.chart_render import render
from vdi.api.crd import build_crds
from vdi.devcluster import cluster
from vdi.gateway.settings import Settings
from vdi.kinds import POOLS, ROUTES, SESSIONS
from vdi.kube.config import load_config
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, PODS, SECRETS, SERVICES
from vdi.kube.transport import Client

OURS, SESSIONS_NAMESPACE = "vdi-system", "vdi-sessions"
OPERATOR, GATEWAY = (f"system:serviceaccount:{OURS}:vdi-{name}" for name in ("operator", "gateway"))
APPLIED = (
    *("Namespace", "ServiceAccount", "Secret", "ConfigMap", "CustomResourceDefinition"),
    *("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
)
# Rights that the flows below do not use, and why they are granted all the same.
NOT_ASKED_FOR = {
    "Role/vdi-gateway-sessions: assign vdisessions": (
        "no request of its own: the API server asks RBAC for it when the"
        " gateway makes a session for somebody (ValidatingAdmissionPolicy vdi-who-may-name-whom)"
    ),
    "Role/vdi-operator: patch pods/resize": (
        "asked for where a kubelet runs the desktop: test_operator_resize"
    ),
    "ClusterRole/vdi-gateway-doctor.vdi-system.vdi: list jobs": (
        "asked for where Kasm Workspaces is: not here"
    ),
}
RESERVATION, MANAGED = "vdi-host-desk", "app.kubernetes.io/managed-by"
NAMES = ("audit", "audit-homeless", "audit-brief")
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}


@dataclass(frozen=True)
class AuditedCluster:
    """The cluster with the chart's accounts, and the audit log from here on."""

    tools: Tools
    log: Path
    skip: int
    objects: list[dict[str, Any]]

    def all(self, plural: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.tools.get(plural, "--all-namespaces")["items"]
        return found

    def asked(self, account: str) -> set[Request]:
        return requests_of(self.log, account, skip=self.skip)

    def environment(self, program: str, **more: str) -> dict[str, str]:
        """The chart's variables for a process here, which has the account's token and no other
        right.
        """
        (made,) = (
            one
            for one in self.objects
            if (one["kind"], one["metadata"]["name"]) == ("Deployment", program)
        )
        variables = made["spec"]["template"]["spec"]["containers"][0]["env"]
        given = {
            variable["name"]: variable["value"] for variable in variables if "value" in variable
        }
        kubeconfig = self.tools.kubeconfig_of(program, OURS)
        return {**_CLEAN, **given, "VDI_KUBECONFIG": str(kubeconfig), **more}


@pytest.fixture
def audited(
    helm: Path, kubectl: list[str], control_plane: cluster.Cluster, tmp_path: Path
) -> Iterator[AuditedCluster]:
    log = control_plane.state_dir / "logs/audit.log"
    most = ("gateway.doctor=true", "doctor.schedule=0 * * * *")  # with all that grants something
    objects = render(helm, "values.yaml", *(word for value in most for word in ("--set", value)))
    skip = log.stat().st_size if log.exists() else 0
    tools = Tools(helm, Path(kubectl[0]), control_plane.kubeconfig, tmp_path)
    audited = AuditedCluster(tools, log, skip, objects)
    desired = [one for one in objects if one["kind"] in APPLIED]
    first = [one for one in desired if one["kind"] in ("Namespace", "CustomResourceDefinition")]
    ours = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OURS}}
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    audited.tools.kubectl(*apply, stdin=yaml.safe_dump_all([ours, *first]))
    for crd in build_crds():
        audited.tools.kubectl(
            "wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=20s"
        )
    audited.tools.kubectl(
        *apply, stdin=yaml.safe_dump_all([one for one in desired if one not in first])
    )
    # Another test's operator may have worked in this namespace: ours is to create its Lease itself.
    audited.tools.kubectl("delete", "lease", "--all", "--namespace", SESSIONS_NAMESPACE)
    yield audited
    audited.tools.kubectl("delete", "vdipool", "audit", "--ignore-not-found")
    audited.tools.kubectl("delete", "vditemplate", "--ignore-not-found", *NAMES)
    audited.tools.kubectl(
        "delete",
        "validatingadmissionpolicy,validatingadmissionpolicybinding",
        "-l",
        "app.kubernetes.io/name=vdi",
    )
    audited.tools.kubectl("delete", "clusterrolebinding", "vdi-gateway-doctor.vdi-system.vdi")


@asynccontextmanager
async def running(audited: AuditedCluster, program: str, **environment: str) -> AsyncIterator[None]:
    """One of our two programs as a process, ended with SIGTERM."""
    log = audited.tools.home / f"{program}.log"
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"vdi.{program.removeprefix('vdi-')}"),
            env=audited.environment(program, **environment),
            stdout=stream,
            stderr=stream,
        )
    try:
        yield
        assert process.returncode is None, log.read_text()
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        sys.stderr.write(log.read_text())


@asynccontextmanager
async def both(audited: AuditedCluster) -> AsyncIterator[tuple[Stage, GatewayStage]]:
    """Operator and gateway, ready; and the test's own way to the cluster and to the gateway."""
    public, internal = free_port(), free_port()
    token, limits = audited.tools.home / "token", audited.tools.home / "limits.yaml"
    words = ("create", "token", "vdi-operator", "--namespace", OURS, "--audience", "vdi-gateway")
    token.write_text(audited.tools.kubectl(*words).strip())
    limits.write_text("{}")
    config = load_config(audited.tools.kubeconfig)
    gateway_variables = {
        "VDI_PUBLIC_ADDR": f"127.0.0.1:{public}",
        "VDI_INTERNAL_ADDR": f"127.0.0.1:{internal}",
        "VDI_DATABASE_URL": f"sqlite+aiosqlite:///{audited.tools.home}/gateway.db",
        "VDI_LIMITS_FILE": str(limits),
    }
    operator_variables = {
        "VDI_METRICS_ADDR": "127.0.0.1:0",
        "VDI_GATEWAY_URL": f"http://127.0.0.1:{internal}",
        "VDI_GATEWAY_TOKEN_FILE": str(token),
    }
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Client(config, field_manager="test"))
        await add_people(Stage(api, OURS, Proxy(config), audited.tools.home))
        stage = Stage(api, SESSIONS_NAMESPACE, Proxy(config), audited.tools.home)
        await stack.enter_async_context(running(audited, "vdi-gateway", **gateway_variables))
        settings = Settings(namespaces=(SESSIONS_NAMESPACE,), gateway_namespace=OURS)
        gateway = GatewayStage(
            stage, settings, public, internal, await stack.enter_async_context(AsyncExitStack())
        )
        await gateway.until_ready()
        await stack.enter_async_context(running(audited, "vdi-operator", **operator_variables))
        yield stage, gateway


async def make_things(stage: Stage) -> None:
    """Templates with and without a home, one whose time is short, a pool of one."""
    spec: dict[str, Any] = {"image": "localhost/vdi/desktop:dev", "resources": {"defaultGPU": 0}}
    kinds: dict[str, dict[str, Any]] = {
        "audit": {"prePull": True},
        "audit-homeless": {"persistence": {"enabled": False}},
        "audit-brief": {"persistence": {"enabled": False}, "lifecycle": {"onTimeout": "Terminate"}},
    }
    for name, more in kinds.items():
        await stage.template_named(name, **(spec | more))
    meta = {"name": "audit"}
    pool = {
        "apiVersion": POOLS.api_version,
        "kind": "VDIPool",
        "metadata": meta,
        "spec": {"template": NAMES[1]},
    }
    await stage.api.create(POOLS, pool, into=dict[str, Any])


async def strip_and_break(stage: Stage, name: str) -> None:
    """Take the labels off all that a session has, and edit its route: the operator finds it and
    puts it right.
    """
    session = await stage.get(SESSIONS, name)
    assert session
    children = {
        kind: [one["metadata"]["name"] for one in await stage.owned(kind, session)]
        for kind in (PODS, SERVICES, SECRETS, ROUTES)
    }
    children[CLAIMS] = [one["metadata"]["name"] for one in await stage.all(CLAIMS)]
    assert all(children.values()), children
    for kind, found in children.items():
        for one in found:
            labels = (await stage.get(kind, one) or {})["metadata"]["labels"]
            await stage.patch(kind, one, {"metadata": {"labels": dict.fromkeys(labels)}})
    for kind, found in children.items():
        await eventually(
            partial(_labelled, stage, kind, found[0]), f"{kind.kind} has its labels again"
        )
    await stage.patch(ROUTES, children[ROUTES][0], {"spec": {"entryPoints": ["elsewhere"]}})

    async def fixed() -> bool:
        route = await stage.get(ROUTES, children[ROUTES][0])
        return route is not None and route["spec"]["entryPoints"] == ["websecure"]

    await eventually(fixed, "the route is as it was")


async def _labelled(stage: Stage, kind: Any, name: str) -> bool:
    return bool((await stage.get(kind, name) or {}).get("metadata", {}).get("labels"))


async def _is_ours(stage: Stage) -> bool:
    return MANAGED in (await stage.get(CONFIG_MAPS, RESERVATION) or {}).get("metadata", {}).get(
        "labels", {}
    )


async def live(stage: Stage, gateway: GatewayStage) -> None:
    """A person's work from login to the end with the home; a desktop from the pool; one whose time
    ends.
    """
    await make_things(stage)
    alice = Person(gateway, await gateway.log_in("alice@example.com"))
    root = Person(gateway, await gateway.log_in("root@example.com"))
    await alice.sees("/catalogue", "audit")
    desk, form = "/desktops/mine", "/catalogue/audit"
    await alice.sends(form, form, {"name": "mine", "timeout": "1h", "home": "yes"})
    running = await stage.run("mine")
    await alice.client.get(running["status"]["url"] + "/.vdi/start", follow_redirects=True)
    await strip_and_break(stage, "mine")
    for _ in range(2):  # what is said twice becomes a series: the Event is patched
        await alice.sends(f"{desk}/suspend", f"{desk}/suspend")
        await alice.sees(desk, "Suspended")
        await stage.reach("mine", "Suspended")
        await alice.sends(f"{desk}/resume", desk)
        await stage.run("mine")

    async def ready() -> bool:
        status = (await stage.api.get(POOLS, "audit", into=dict[str, Any])).get("status", {})
        return bool(status.get("starting") or status.get("ready"))

    await eventually(ready, "the pool starts a desktop")
    (spare,) = [
        one
        for one in await stage.all(PODS)
        if one["metadata"]["labels"].get("vdi.kasm.io/pool") == "audit"
    ]
    await stage.make_ready(spare)
    await stage.session("claimed", "audit-homeless", hostname="desk")
    await stage.reach("claimed", "Running")
    await stage.patch(CONFIG_MAPS, RESERVATION, {"metadata": {"labels": {MANAGED: None}}})
    await eventually(partial(_is_ours, stage), "the reservation has its label again")
    await stage.session("brief", "audit-brief", timeout="1s")
    await stage.gone(SESSIONS, "brief", 30)
    await root.sends("/admin/doctor", "/admin/doctor")
    for name, more in (("mine", {"deleteHome": "true"}), ("claimed", {})):
        await root.sends(f"/desktops/{name}/end", f"/desktops/{name}/end", more)
        await stage.gone(SESSIONS, name, 30)


async def test_used_verbs_are_the_granted_verbs(audited: AuditedCluster) -> None:
    rights = {account: rights_of(audited.all, account) for account in (OPERATOR, GATEWAY)}
    assert all(rights.values())

    def unused() -> set[str]:
        return {
            each for account in rights for each in not_used(audited.asked(account), rights[account])
        }

    async with both(audited) as (stage, gateway):
        await live(stage, gateway)
        # An Event is patched 10 s after it was made; what is missing is said below.
        with suppress(AssertionError):
            await eventually(lambda: unused() <= set(NOT_ASKED_FOR), seconds=15)
    assert unused() == set(NOT_ASKED_FOR), (
        "granted and neither asked for nor in the table, or in the table for nothing"
    )
    for account, granted in rights.items():
        assert not_granted(audited.asked(account), granted) == []
