"""`vdi image check` against a real API server that enforces Pod Security.

The tests play the kubelet; requests reach a stand-in for the image, or its program, through one for kubectl.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cluster.edge_traefik import free_port
from cluster.operator_stage import Object, Stage
from cluster.stand_in import MARK
from support.waiting import PATIENCE, eventually
from unit.image_check.desktop_stand_in import KUBECTL, StandIn
from vdi.http_client import HTTP_ERRORS, unverified
from vdi.image_check.pod import AGENT_PORT, HOME_CONTAINER, LABELS
from vdi.kube.errors import NotFound
from vdi.kube.resource import EVENTS, NAMESPACES, NODES, PODS, SECRETS

RUN_MAIN = "import sys; from vdi.cli.main import main; sys.exit(main())"
SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())
PULLED = 'Successfully pulled image "registry.example.com/desktop:1" in 12.1s'
REPORT = "1000 1000 true /home/user"
Kubelet = Callable[["Node", Object], Coroutine[Any, Any, None]]


class Ran:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def report(self) -> Object:
        """Of `-o json`."""
        found: Object = json.loads(self.out)
        return found

    def findings(self, severity: str) -> dict[str, str]:
        """Message by code."""
        found = self.report["findings"]
        return {finding["code"]: finding["message"] for finding in found if finding["severity"] == severity}

    @property
    def levels(self) -> dict[str, str]:
        """Of each level, whether it holds."""
        return {level["level"]: level["holds"] for level in self.report["levels"]}


class Node:
    """A node whose kubelet is the test."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.name = stage, name

    async def report(self, pod: Object, *containers: Object, phase: str = "Running") -> None:
        """Its status as the kubelet writes it."""
        known = {"image": pod["spec"]["containers"][0]["image"], "imageID": "", "restartCount": 0, "ready": False}
        status = {"phase": phase, "containerStatuses": [{**known, **container} for container in containers]}
        await self.stage.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")

    async def event(self, pod: Object, reason: str, note: str, container: str = "desktop") -> None:
        """An Event about a container."""
        regarding = {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": self.stage.namespace}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "metadata": {"generateName": "e-"},
            "regarding": {**regarding, "apiVersion": "v1", "fieldPath": f"spec.containers{{{container}}}"},
            "reason": reason,
            "note": note,
            "type": "Normal" if reason == "Pulled" else "Warning",
            "action": "Look",
            "eventTime": now,
            "reportingController": "kubelet",
            "reportingInstance": self.name,
        }
        await self.stage.api.create(EVENTS, body, namespace=self.stage.namespace, into=msgspec.Raw)

    async def end(self, pod: Object, exit_code: int) -> None:
        """Once the pod is deleted, the desktop's container ends so, and the pod goes."""
        name = pod["metadata"]["name"]

        async def is_deleted() -> bool:
            found = await self.stage.get(PODS, name)
            return found is None or "deletionTimestamp" in found["metadata"]

        await eventually(is_deleted, "the pod is deleted", 120)
        with suppress(NotFound):
            await self.report(pod, terminated("desktop", exit_code), terminated(HOME_CONTAINER, 0, REPORT))
            await self.stage.delete(PODS, name, grace_seconds=0)


def running(name: str, *, ready: bool = False) -> Object:
    return {"name": name, "ready": ready, "state": {"running": {"startedAt": "2026-11-20T12:00:00Z"}}}


def terminated(name: str, exit_code: int, message: str = "", reason: str = "Completed") -> Object:
    state = {"exitCode": exit_code, "reason": reason, "message": message}
    return {"name": name, "state": {"terminated": state}}


@pytest.fixture
async def node(stage: Stage) -> Node:
    """Whose pods no one but the test removes, in a namespace that enforces `restricted`."""
    name = await stage.node("kubelet")
    await stage.api.patch(NODES, name, {"metadata": {"labels": {MARK: "heartbeat"}}}, into=msgspec.Raw)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await stage.api.patch(NAMESPACES, stage.namespace, {"metadata": {"labels": labels}}, into=msgspec.Raw)
    return Node(stage, name)


async def pods(stage: Stage) -> list[Object]:
    return await stage.api.list(PODS, namespace=stage.namespace, label_selector=SELECTOR, into=dict)


async def bound(node: Node) -> Object:
    """The check's pod, on this node."""
    stage = node.stage

    async def look() -> Object | None:
        found = await pods(stage)
        return found[0] if found and found[0]["spec"].get("nodeName") else None

    return await eventually(look, "the pod of the check is on a node", 120)


@asynccontextmanager
async def checking(
    stage: Stage, kubeconfig: Path, folder: Path, *words: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command as a process, with the stand-in for kubectl in its PATH."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**variables, "KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": stage.namespace, "PATH": path}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN_MAIN, "image", "check", *words),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def checked(node: Node, kubeconfig: Path, folder: Path, kubelet: Kubelet | None, *words: str) -> Ran:
    """The whole command, while `kubelet` plays what becomes of its pod."""
    async with checking(node.stage, kubeconfig, folder, *words, "-o", "json") as process:
        rest = asyncio.create_task(process.communicate())
        try:
            if kubelet:
                await kubelet(node, await bound(node))
        except AssertionError as error:
            with suppress(ProcessLookupError):  # it has ended before its pod was there
                process.kill()
            raise AssertionError(f"{error}; the command has printed {(await rest)[1].decode()}") from error
        out, err = await rest
    assert process.returncode is not None
    ran = Ran(process.returncode, out.decode(), err.decode())
    assert "Traceback" not in ran.err, ran.err
    assert await pods(node.stage) == [], "nothing is left behind"
    return ran


async def a_template(node: Node, name: str = "desktop", **spec: Any) -> str:
    fields = {"resources": {"defaultGPU": 0}, "placement": {"nodeSelector": node.stage.here}}
    return await node.stage.template_named(f"{node.stage.namespace}-{name}", **fields | spec)


async def test_a_template_that_is_not_there(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    async with checking(node.stage, kubeconfig, tmp_path, "nothing-here") as process:
        out, err = await process.communicate()
    assert process.returncode == 2 and not out
    assert b"there is no template nothing-here" in err


@pytest.mark.timeout(300)
async def test_a_desktop_that_holds_every_level(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    template, desktop = await a_template(node), StandIn()
    shape: Object = {}

    async def kubelet(node: Node, pod: Object) -> None:
        shape.update(pod["spec"])
        env = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
        desktop.master_digest, desktop.agent_digest = env["VDI_MASTER_TOKEN_SHA256"], env["VDI_AGENT_TOKEN_SHA256"]
        await node.event(pod, "Pulled", f"{PULLED} (12.1s including waiting). Image size: 429000000 bytes.")
        await node.report(pod, running("desktop"), terminated(HOME_CONTAINER, 0, REPORT))
        await node.report(pod, running("desktop", ready=True), terminated(HOME_CONTAINER, 0, REPORT))
        await node.end(pod, 143)

    # The agent's port has a listener from the start; whom it lets in is known once there is a pod.
    desktop.agent_digest = "none yet"
    async with desktop.serve(tmp_path, 8080, AGENT_PORT):
        ran = await checked(node, kubeconfig, tmp_path, kubelet, template)

    assert ran.code == 0, ran.out + ran.err
    assert ran.levels == {"web": "yes", "Selkies 2": "yes", "full": "yes"}
    ok = ran.findings("ok")
    assert len(ok) == len(ran.report["findings"]) == 13
    assert ok["image_pull"] == f"{PULLED}." and ok["image_size"].startswith("429 MB on node ")
    assert ok["image_health"] == "/api/health responds with 200."
    assert ok["image_home"] == "/home/user is writable."
    assert "exit status 143" in ok["image_end"]
    assert "ready" in ran.err and "ended" in ran.err, "the stages are shown"
    assert shape["terminationGracePeriodSeconds"] == 3 and not shape["automountServiceAccountToken"]
    assert {volume["name"]: set(volume) - {"name"} for volume in shape["volumes"]}["home"] == {"emptyDir"}


@pytest.mark.timeout(300)
async def test_a_template_that_ends_at_once(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    async def kubelet(node: Node, pod: Object) -> None:
        words = "[vdi-desktop] no picture can be made: libgbm.so.1: cannot open shared object file"
        ended = terminated("desktop", 1, words, "Error")
        await node.report(pod, ended, terminated(HOME_CONTAINER, 0, REPORT), phase="Failed")
        await node.end(pod, 1)

    ran = await checked(node, kubeconfig, tmp_path, kubelet, await a_template(node))

    assert ran.code == 1, ran.out + ran.err
    assert "ended with exit status 1" in ran.findings("error")["image_start"]
    assert "libgbm.so.1" in ran.findings("error")["image_start"]
    assert ran.levels == {"web": "no", "Selkies 2": "no", "full": "no"}
    assert ran.findings("ok").keys() == {"image_pull", "image_user", "image_home"}


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_an_image_that_no_registry_has(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    async def kubelet(node: Node, pod: Object) -> None:
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        note = 'Failed to pull image "registry.example.com/lab:1": registry.example.com/lab:1: not found'
        await node.event(pod, "Failed", note)
        await node.report(pod, {"name": "desktop", "state": waiting}, phase="Pending")
        await node.end(pod, 0)

    image = "registry.example.com/lab:1"
    name = await a_template(node, image=image, protocol="Web", port=8888)
    ran = await checked(node, kubeconfig, tmp_path, kubelet, name)

    assert ran.code == 1
    words = f"The image {image} cannot be pulled: the registry has no such image; check name and tag"
    assert ran.findings("error")["image_pull"].startswith(words)
    assert ran.levels == {"web": "no"}


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_health_path_behind_a_password(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    async def kubelet(node: Node, pod: Object) -> None:
        assert pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/health"
        await node.report(pod, running("desktop"), terminated(HOME_CONTAINER, 0, "1000 1000 true /home/ubuntu"))
        await node.event(pod, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 401")
        await node.end(pod, 137)

    name = await a_template(node, streaming={"selkies": "1"}, persistence={"mountPath": "/home/ubuntu"})
    async with StandIn(password="mypasswd", health_path="/health").serve(tmp_path, 8080, AGENT_PORT):
        ran = await checked(node, kubeconfig, tmp_path, kubelet, name)

    assert ran.code == 1, ran.out + ran.err
    wrong = ran.findings("error")
    assert "its health path requires a password" in wrong["image_health"]
    assert "Did not end within 3 s of SIGTERM" in wrong["image_end"]
    assert ran.levels == {"web": "no", "Selkies 1": "no"}


@pytest.mark.timeout(300)
async def test_what_is_not_started(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest"
    ran = await checked(node, kubeconfig, tmp_path, None, image)
    assert ran.code == 1 and "contains no desktop" in ran.findings("error")["image_unusable"]

    nfs = {"name": "shared", "mountPath": "/shared", "nfs": {"server": "nfs.example.com", "path": "/x"}}
    ran = await checked(node, kubeconfig, tmp_path, None, await a_template(node, volumes=[nfs]))
    assert ran.code == 1
    assert 'violates PodSecurity "restricted:latest"' in ran.findings("error")["image_start"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_leaves_nothing_behind(
    node: Node, kubeconfig: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    async with checking(node.stage, kubeconfig, tmp_path, await a_template(node)) as process:
        assert process.stderr is not None
        await bound(node)
        said = b""
        while b"preparing the image" not in said:
            said += await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        process.send_signal(ends)
        said += (await process.communicate())[1]
    assert process.returncode == 130 and b"Interrupted; the pod is removed." in said, said
    assert b"Traceback" not in said
    assert await pods(node.stage) == []


@pytest.mark.timeout(300)
async def test_a_pod_that_a_killed_command_left_is_removed_by_the_next(
    node: Node, kubeconfig: Path, tmp_path: Path
) -> None:
    template = await a_template(node)
    async with checking(node.stage, kubeconfig, tmp_path, template) as process:
        left = await bound(node)
        process.kill()
        await process.wait()
    assert left["spec"]["activeDeadlineSeconds"] == 300 + 180
    await node.report(left, phase="Failed")  # as Kubernetes does at the deadline

    async def kubelet(node: Node, pod: Object) -> None:
        assert pod["metadata"]["name"] != left["metadata"]["name"]
        await node.report(pod, terminated("desktop", 0), terminated(HOME_CONTAINER, 0, REPORT), phase="Succeeded")
        await node.end(pod, 0)

    async with checking(node.stage, kubeconfig, tmp_path, template, "-o", "json") as process:
        rest = asyncio.create_task(process.communicate())

        async def replaced() -> bool:
            return left["metadata"]["name"] not in {pod["metadata"]["name"] for pod in await pods(node.stage)}

        await eventually(replaced, "the pod that was left is removed")
        await kubelet(node, await bound(node))
        await rest
    assert await pods(node.stage) == []


# Images that people bring, by their own programs: the level comes from real responses.

ROOT = Path(__file__).parents[2]
STAND_INS = [sys.executable, str(ROOT / "images/web-stand-ins/serve.py")]


@asynccontextmanager
async def serving(
    folder: Path, port: int, argv: list[str], env: Mapping[str, str], scheme: str = "http"
) -> AsyncIterator[int]:
    """A program that serves on loopback, and a kubectl in `folder` that forwards the pod's `port` to it."""
    there = int(env["PORT"])
    (folder / f"port:{port}").write_text(str(there))
    kubectl = folder / "kubectl"
    kubectl.write_text(KUBECTL.format(folder=folder))
    kubectl.chmod(0o755)
    with (folder / "program.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, env={**os.environ, **env}, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient(trust_env=False, verify=unverified()) as http:

            async def responds() -> bool:
                assert process.returncode is None, (folder / "program.log").read_text()
                try:
                    return bool(await http.get(f"{scheme}://127.0.0.1:{there}/"))
                except HTTP_ERRORS:
                    return False

            await eventually(responds, "the program responds", 150)
        yield there
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready(node: Node, pod: Object) -> None:
    """The kubelet, where the probe is content."""
    await node.event(pod, "Pulled", f"{PULLED} (12.1s including waiting). Image size: 429000000 bytes.")
    await node.report(pod, running("desktop", ready=True), terminated(HOME_CONTAINER, 0, REPORT))
    await node.end(pod, 143)


async def unready(node: Node, pod: Object) -> None:
    """The kubelet, where the health path requires a password."""
    await node.report(pod, running("desktop"), terminated(HOME_CONTAINER, 0, REPORT))
    await node.event(pod, "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 401")
    await node.end(pod, 143)


async def put_login(node: Node, user: str, password: str) -> Object:
    body = {"metadata": {"generateName": "login-"}, "stringData": {"username": user, "password": password}}
    made = await node.stage.api.create(SECRETS, body, namespace=node.stage.namespace, into=dict[str, Any])
    return {"basicAuthSecret": {"name": made["metadata"]["name"]}}


SELKIES_1 = ({"streaming": {"selkies": "1"}}, 8080, "http", ("user", "mypasswd"))
KASMVNC = ({"protocol": "Web", "port": 6901, "scheme": "HTTPS"}, 6901, "https", ("kasm_user", "vncpassword"))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("stand_in", "shape", "levels", "code"),
    [
        # The picture of Selkies 1 is sent over WebRTC alone.
        ("selkies-1", SELKIES_1, {"web": "yes", "Selkies 1": "unknown"}, 3),
        ("kasmvnc", KASMVNC, {"web": "yes"}, 0),
    ],
)
async def test_an_image_behind_a_login_has_its_level_with_the_secret_and_the_reason_without(
    node: Node,
    kubeconfig: Path,
    tmp_path: Path,
    stand_in: str,
    shape: tuple[dict[str, Any], int, str, tuple[str, str]],
    levels: dict[str, str],
    code: int,
) -> None:
    spec, port, scheme, login = shape
    env = {"STAND_IN": stand_in, "ADDRESS": "127.0.0.1", "PORT": str(free_port())}
    with_login = await a_template(node, **spec, **await put_login(node, *login))
    without = await a_template(node, "without-secret", **spec)
    async with serving(tmp_path, port, STAND_INS, env, scheme):
        allowed = await checked(node, kubeconfig, tmp_path, ready, with_login)
        refused = await checked(node, kubeconfig, tmp_path, unready, without)

    assert (allowed.code, allowed.levels) == (code, levels), allowed.out + allowed.err
    assert allowed.findings("error") == {} and "200" in allowed.findings("ok")["image_health"]
    assert refused.code == 1 and set(refused.levels.values()) == {"no"}
    assert "requires a password" in refused.findings("error")["image_health"], refused.out


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_jupyterlab_from_pypi_is_a_web_image(node: Node, kubeconfig: Path, tmp_path: Path) -> None:
    """With the versions and the command line of the gallery's image, and the shape of its template."""
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "venv/bin/python"
    locked = ROOT / "images/gallery/jupyter.txt"
    install = ["pip", "install", "--quiet", "--only-binary", ":all:", "--constraint", str(locked), "jupyterlab"]
    for words in (
        ["venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        [*install, "--python", str(python)],
    ):
        process = await asyncio.create_subprocess_exec(uv, *words)
        assert await process.wait() == 0, words
    recipe = (ROOT / "images/gallery/notebook/Containerfile").read_text()
    entrypoint = recipe.rpartition("ENTRYPOINT ")[2].replace("\\\n", "")
    command = msgspec.json.decode(entrypoint, type=list[str])
    port = free_port()
    given = {"--ip=0.0.0.0": "--ip=127.0.0.1", "--port=8888": f"--port={port}"}
    argv = [str(python.with_name(command[0])), *(given.get(word, word) for word in command[1:]), "--allow-root"]
    env = {"PORT": str(port), "HOME": str(tmp_path), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    template = await a_template(node, protocol="Web", port=8888, healthPath="/api")
    async with serving(tmp_path, 8888, argv, env):
        ran = await checked(node, kubeconfig, tmp_path, ready, template)

    assert (ran.code, ran.levels) == (0, {"web": "yes"}), ran.out + ran.err
    assert ran.findings("ok")["image_health"] == "/api responds with 200."
