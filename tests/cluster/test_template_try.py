"""`vdi template try` against a real API server and the operator; the tests play the kubelet and the
image.
"""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from cluster.operator_stage import Object, Stage
from cluster.stand_in import MARK
from support.waiting import eventually
from support.web_server import serve_app
from vdi.image_check.judge import TRIAL
from vdi.image_check.observe import AGENT_PORT
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.errors import NotFound
from vdi.kube.resource import NODES, PODS, SECRETS
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import secret_name

pytestmark = pytest.mark.timeout(180)
BEHIND_A_GATEWAY = ClusterSettings(edge_middleware="vdi-edge")
_KUBECTL = """#!/bin/sh
for word in "$@"; do last=$word; done
echo "Forwarding from 127.0.0.1:$(cat "{folder}/port$last") -> $last"
exec sleep 60
"""


class Desktop:
    """Selkies 2 with its token table, and the agent."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.master = self.agent_token = ""

    async def page(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.path == "/api/tokens" and token == self.master:
            self.tokens = set(await request.json())
            return web.json_response({})
        return web.json_response({}, status=200 if token in self.tokens else 401)

    async def agent(self, request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == f"Bearer {self.agent_token}"
        return web.json_response({}, status=200 if known else 401)


@asynccontextmanager
async def checking(
    stage: Stage, kubeconfig: Path, folder: Path, *words: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Desktop]]:
    """The command as a process, with a kubectl that forwards to a desktop of this process."""
    desktop = Desktop()
    async with AsyncExitStack() as servers:
        for port, handler in ((8080, desktop.page), (AGENT_PORT, desktop.agent)):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            (folder / f"port:{port}").write_text(
                str(await servers.enter_async_context(serve_app(app)))
            )
        (folder / "kubectl").write_text(_KUBECTL.format(folder=folder))
        (folder / "kubectl").chmod(0o755)
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith("VDI_")
        }
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **variables,
            "KUBECONFIG": str(kubeconfig),
            "VDI_NAMESPACE": stage.namespace,
            "PATH": path,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vdi", "template", "try", *words, "-o", "json"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            yield process, desktop
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def a_template(stage: Stage) -> str:
    """A template whose pods are left to the test."""
    node = await stage.node("kubelet")
    await stage.patch(NODES, node, {"metadata": {"labels": {MARK: "heartbeat"}}})
    return await stage.template(
        resources={"defaultGPU": 0},
        placement={"nodeSelector": stage.here},
        persistence={"enabled": False},
    )


def a_file(folder: Path, **spec: object) -> str:
    template = {
        "apiVersion": TEMPLATES.api_version,
        "kind": TEMPLATES.kind,
        "metadata": {"name": "lab"},
        "spec": spec,
    }
    (folder / "lab.yaml").write_text(json.dumps(template))
    return str(folder / "lab.yaml")


async def end(stage: Stage, pod: Object, exit_code: int) -> None:
    """Once the pod is deleted, its container ends so, and the pod goes."""
    name = pod["metadata"]["name"]

    async def is_deleted() -> bool:
        found = await stage.get(PODS, name)
        return found is None or "deletionTimestamp" in found["metadata"]

    await eventually(is_deleted, "the pod is deleted", 60)
    state = {"terminated": {"exitCode": exit_code, "reason": "Completed"}}
    desktop = {
        "name": "desktop",
        "image": "x",
        "imageID": "x",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    with suppress(NotFound):
        await stage.patch(
            PODS, name, {"status": {"containerStatuses": [desktop]}}, subresource="status"
        )
        await stage.delete(PODS, name, grace_seconds=0)


async def test_a_desktop_reaches_every_level_and_nothing_is_left(
    stage: Stage, kubeconfig: Path, tmp_path: Path
) -> None:
    template = await a_template(stage)
    async with (
        stage.operator(cluster=BEHIND_A_GATEWAY),
        checking(stage, kubeconfig, tmp_path, template) as (process, desktop),
    ):
        rest = asyncio.create_task(process.communicate())
        pod = await stage.pod_of(await stage.until(SESSIONS, TRIAL, seconds=60))
        secret = await stage.until(SECRETS, secret_name(TRIAL))
        words = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        desktop.master = words["password"].decode()
        desktop.agent_token = words["agentToken"].decode()
        await stage.make_ready(pod)
        await end(stage, pod, 143)
        out, err = await rest
        await stage.gone(SESSIONS, TRIAL)
    report = json.loads(out)
    contract = {
        one["code"]: one["severity"]
        for one in report["findings"]
        if one["code"].startswith("image_")
    }
    codes = ("image_start", "image_start_up", "image_end", "image_token_table", "image_agent")
    assert contract == dict.fromkeys(codes, "ok"), (out, err)
    assert report["level"] == "full"


async def test_an_image_that_cannot_be_pulled_is_named_by_the_doctor(
    stage: Stage, kubeconfig: Path, tmp_path: Path
) -> None:
    await stage.node("kubelet")
    file = a_file(tmp_path, image="registry.example.com/lab:1")
    async with (
        stage.operator(cluster=BEHIND_A_GATEWAY),
        checking(stage, kubeconfig, tmp_path, file, "--timeout", "1s") as (process, _),
    ):
        session = await stage.until(SESSIONS, TRIAL, seconds=60)
        assert session["spec"]["template"] == TRIAL
        out, err = await process.communicate()
        await stage.gone(SESSIONS, TRIAL)
    found = json.loads(out)["findings"]
    assert process.returncode in (1, 3), (out, err)
    assert {"image_start", "image_not_checked"} & {one["code"] for one in found}
    assert json.loads(out)["level"] == ""
    assert await stage.get(TEMPLATES, TRIAL) is None


async def test_unknown_field_of_a_file_is_refused(
    stage: Stage, kubeconfig: Path, tmp_path: Path
) -> None:
    file = a_file(tmp_path, image="registry.example.com/lab:1", prt=8888)
    async with checking(stage, kubeconfig, tmp_path, file) as (process, _):
        _, err = await process.communicate()
    assert process.returncode != 0 and b'unknown field "spec.prt"' in err, err
    assert await stage.get(TEMPLATES, TRIAL) is None


async def test_ctrl_c_deletes_the_session(stage: Stage, kubeconfig: Path, tmp_path: Path) -> None:
    template = await a_template(stage)
    async with checking(stage, kubeconfig, tmp_path, template) as (process, _):
        await stage.until(SESSIONS, TRIAL, seconds=60)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, b"the session is deleted" in err) == (130, True), err
        await stage.gone(SESSIONS, TRIAL)
