"""The probe's CronJob as the chart renders it, against a real API server, gateway, operator and
Traefik.

The desktop is played: an agent that shows a mark, and a Selkies that follows keys with a picture.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from cluster.desktop_agent import Agent, run_desktop
from cluster.edge_traefik import free_port, run_traefik
from cluster.gateway_stage import GatewayStage, open_gateway_stage
from cluster.operator_stage import Object, Stage
from support.waiting import eventually
from support.web_server import serve_app
from tools.generate.chart_render import render
from unit.latency_probe.test_client import MARK, Desktop
from vdi.gateway.desktop.agent import AGENT_PORT
from vdi.gateway.edge.headers import FORWARD_AUTH
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.resource import Resource
from vdi.session.cluster_settings import ClusterSettings

ADDRESS = "127.31.0.77"
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ANY = r"HostRegexp(`^[a-z0-9-]+\.vdi\.localhost$`)"


@pytest.fixture(scope="module")
def objects(helm: Path) -> list[Object]:
    return render(helm, "values.yaml")


def named(objects: list[Object], kind: str) -> Object:
    """The probe's object of this kind."""
    (found,) = [
        one
        for one in objects
        if one["kind"] == kind and one["metadata"]["name"].partition(".")[0] == "vdi-probe"
    ]
    return found


@dataclass
class ProbeStage:
    """Everything that the Job meets."""

    stage: Stage
    gateway: GatewayStage
    objects: list[Object]
    folder: Path
    port: int
    desktop: Desktop
    # What the agent was asked to show.
    asked: list[Object]

    def write_routes(self, *hosts: str) -> None:
        """The gateway's routes, and those of these desktops."""
        gateway = {"entryPoints": ["websecure"], "tls": {}, "service": "gateway"}
        routers: Object = {
            "portal": {"rule": "Host(`portal.vdi.localhost`)", "priority": 2000, **gateway},
            "vdi": {"rule": f"{ANY} && PathPrefix(`/.vdi/`)", "priority": 1000, **gateway},
            "rest": {"rule": ANY, "priority": 1, **gateway},
        }
        desktop = {**gateway, "service": "desktop", "middlewares": ["vdi-edge"]}
        routers |= {
            f"desktop-{number}": {"rule": f"Host(`{host}`)", **desktop}
            for number, host in enumerate(hosts)
        }
        verify = {
            "address": f"http://127.0.0.1:{self.gateway.internal}/edge/verify",
            **FORWARD_AUTH,
        }
        places = {
            "gateway": f"http://127.0.0.1:{self.gateway.public}",
            "desktop": f"http://{ADDRESS}:8080",
        }
        services = {
            name: {"loadBalancer": {"servers": [{"url": url}]}} for name, url in places.items()
        }
        http = {
            "routers": routers,
            "middlewares": {"vdi-edge": {"forwardAuth": verify}},
            "services": services,
        }
        fresh = self.folder / "routes.new"
        fresh.write_text(json.dumps({"http": http}))
        fresh.rename(self.folder / "routes" / "routes.yaml")

    async def token(self, account: str) -> Path:
        """A token file as the kubelet mounts it."""
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        request = {**kind, "spec": {"audiences": ["vdi-gateway"]}}
        tokens = Resource("", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
        answer: Object = await self.stage.api.create(
            tokens, request, namespace=self.stage.namespace, into=dict
        )
        file = self.folder / f"token-{account}"
        file.write_text(answer["status"]["token"])
        return file

    async def start_job(self, account: str = "vdi-probe") -> asyncio.subprocess.Process:
        """The container of the CronJob, with the addresses of this stage."""
        (container,) = named(self.objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"][
            "spec"
        ]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]} | {
            "VDI_SERVER": self.gateway.portal,
            "VDI_GATEWAY_URL": f"http://127.0.0.1:{self.gateway.internal}",
            "VDI_GATEWAY_TOKEN_FILE": str(await self.token(account)),
            "VDI_PROBE_CONNECT": f"127.0.0.1:{self.port}",
        }
        rest = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *container["command"][1:],
            env={**rest, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def session_of_the_probe(self, job: asyncio.subprocess.Process) -> Object:
        """The session that this Job has started."""

        async def look() -> Object | None:
            found = await self.stage.get(SESSIONS, "vdi-probe")
            if found is None and job.returncode is not None:
                out, _ = await job.communicate()
                pytest.fail(
                    f"the Job ended with {job.returncode} and has started nothing: {out.decode()}"
                )
            return found

        return await eventually(look, "the probe's session", 60)


@asynccontextmanager
async def played_desktop(desktop: Desktop, asked: list[Object]) -> AsyncIterator[None]:
    """Selkies and the agent of every desktop at ADDRESS."""

    async def show_mark(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response(msgspec.to_builtins(MARK))

    async def agree(_request: web.Request) -> web.Response:
        return web.json_response({})

    selkies, agent = web.Application(), web.Application()
    selkies.router.add_get("/api/websockets", desktop.stream)
    selkies.router.add_route("*", "/{path:.*}", agree)
    agent.router.add_post("/photon", show_mark)
    async with serve_app(selkies, ADDRESS, 8080), serve_app(agent, ADDRESS, AGENT_PORT):
        yield


@pytest.fixture
async def probe(
    stage: Stage, traefik: Path, objects: list[Object], tmp_path: Path
) -> AsyncIterator[ProbeStage]:
    port, desktop, asked = free_port(), Desktop(), list[Object]()
    account = f"system:serviceaccount:{stage.namespace}:vdi-probe"
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            open_gateway_stage(stage, tmp_path, url_port=port, probe_account=account)
        )
        await stack.enter_async_context(stage.operator(cluster=ClusterSettings(url_port=port)))
        await stack.enter_async_context(played_desktop(desktop, asked))
        made = ProbeStage(stage, gateway, objects, tmp_path, port, desktop, asked)
        (tmp_path / "routes").mkdir()
        made.write_routes()
        await stack.enter_async_context(run_traefik(traefik, tmp_path, port))
        template = named(objects, "VDITemplate")
        await stage.api.create(TEMPLATES, template, into=msgspec.Raw)
        for name in ("vdi-probe", "other"):
            body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
            await stage.api.create(
                SERVICE_ACCOUNTS, body, namespace=stage.namespace, into=msgspec.Raw
            )
        yield made
        await stage.delete(TEMPLATES, template["metadata"]["name"])


async def test_a_desktop_is_started_measured_and_deleted(probe: ProbeStage) -> None:
    job = await probe.start_job()
    session = await probe.session_of_the_probe(job)
    assert session["spec"]["user"] == "vdi-probe@vdi.invalid"
    assert session["spec"]["priority"] == -1000
    running = await run_desktop(probe.stage, "vdi-probe", Agent(ADDRESS))
    probe.write_routes(running["status"]["url"].removeprefix("https://").partition(":")[0])
    out, _ = await asyncio.wait_for(job.communicate(), 60)
    assert job.returncode == 0, out.decode()
    assert "input to photon" in out.decode()
    assert len(probe.asked) == 1
    origin = next(line for line in probe.desktop.seen if line.startswith("socket "))
    assert origin.startswith(f"socket {running['status']['url']} "), (
        "the host's own name, wherever Traefik is"
    )
    metrics = await probe.gateway.metrics()
    template = named(probe.objects, "VDITemplate")["metadata"]["name"]
    assert f'vdi_probes_total{{outcome="measured",template="{template}"}} 1.0' in metrics
    assert f'session_glass_to_glass_seconds_count{{template="{template}"}} 40.0' in metrics
    await probe.stage.gone(SESSIONS, "vdi-probe", 30)


@pytest.mark.long
async def test_a_job_that_is_killed_deletes_its_desktop_first(probe: ProbeStage) -> None:
    job = await probe.start_job()
    await probe.session_of_the_probe(job)
    job.terminate()
    out, _ = await asyncio.wait_for(job.communicate(), 30)
    assert (job.returncode, "ended before the desktop was measured" in out.decode()) == (
        3,
        True,
    ), out.decode()
    await probe.stage.gone(SESSIONS, "vdi-probe", 30)


async def test_probe_token_and_desktop_are_private(probe: ProbeStage) -> None:
    job = await probe.start_job("other")
    out, _ = await asyncio.wait_for(job.communicate(), 30)
    assert job.returncode == 3
    assert "gives no token to the probe (403): this token is not the probe's" in out.decode()
    assert await probe.stage.get(SESSIONS, "vdi-probe") is None

    template = named(probe.objects, "VDITemplate")["metadata"]["name"]
    bob = await probe.gateway.log_in("bob@example.com")
    assert template not in (await bob.get("/catalogue")).text
    refused = await probe.gateway.post(bob, f"/catalogue/{template}", {"name": "mine"})
    assert refused.status_code in (403, 404), refused.text
    assert await probe.stage.get(SESSIONS, "mine") is None


def test_probe_job_has_no_rights_and_runs_restricted(objects: list[Object]) -> None:
    subjects = [subject["name"] for one in objects for subject in one.get("subjects") or ()]
    assert "vdi-probe" not in subjects
    assert named(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    pod = named(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["restartPolicy"]) == (True, "Never")
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    spec = named(objects, "VDITemplate")["spec"]
    assert (spec["access"], spec["lifecycle"]["maxTimeout"]) == (
        {"users": ["vdi-probe@vdi.invalid"]},
        "10m",
    )


@pytest.mark.parametrize(
    "value",
    ["probe.enabled=false", "gateway.enabled=false", "templates=null", "templates.small=null"],
)
def test_probe_job_is_rendered_only_with_a_desktop(helm: Path, value: str) -> None:
    rendered = render(helm, "values.yaml", "--set", value)
    assert "probe" not in {name for one in rendered for name in one["metadata"]["name"].split("-")}
    assert "VDI_PROBE_ACCOUNT" not in json.dumps(rendered)


def test_each_release_has_a_template_of_its_own(objects: list[Object]) -> None:
    assert named(objects, "VDITemplate")["metadata"]["name"] == "vdi-probe.vdi-system.vdi"
    (container,) = named(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"name": "VDI_PROBE_TEMPLATE", "value": "vdi-probe.vdi-system.vdi"} in container["env"]
