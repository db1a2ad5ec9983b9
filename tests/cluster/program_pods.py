"""A kubelet's stand-in that runs pods of operator and gateway as processes of this machine, each
from its own sources.

Their readiness is that of the program. Other pods become Ready as they are.
"""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cluster.edge_traefik import free_port
from cluster.release_stage import bind_claims, kubelet, look_after, set_status
from vdi.kube.errors import NotFound
from vdi.kube.resource import PODS, SECRETS
from vdi.kube.transport import Client

Object = dict[str, Any]
_END_SECONDS = 20


@dataclass
class Program:
    """A pod's main container as a process."""

    # `operator` or `gateway`.
    name: str
    image: str
    process: "subprocess.Popen[bytes]"
    public: int
    internal: int
    log: Path
    # The exit code and the readiness that its pod has.
    reported: tuple[int | None, bool] = (None, False)

    def is_ready(self) -> bool:
        """The result of the pod's readiness probe."""
        with suppress(httpx.TransportError):
            return (
                httpx.get(f"http://127.0.0.1:{self.internal}/readyz", timeout=5).status_code == 200
            )
        return False

    def end(self) -> None:
        """As a kubelet ends it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class ProgramPods:
    """The programs that run now."""

    kubeconfig: Path
    folder: Path
    # Image -> the folder of its sources. Pods of other images run nothing.
    sources: Mapping[str, Path]
    # Variables in place of what is mounted into the pods.
    environment: Mapping[str, str]
    # By the pod's uid.
    running: dict[str, Program] = field(default_factory=dict)

    def gateway(self, image: str) -> Program:
        """The gateway of that image, of which there is one."""
        (found,) = [p for p in self.running.values() if (p.name, p.image) == ("gateway", image)]
        return found

    def logs(self) -> str:
        """The output of all programs, for a test that fails."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    async def look(self, api: Client) -> None:
        pods = await api.list(PODS, field_selector="spec.nodeName!=", into=Object)
        there = {
            pod["metadata"]["uid"] for pod in pods if not pod["metadata"].get("deletionTimestamp")
        }
        # Before others start: two never use one SQLite file.
        for uid in self.running.keys() - there:
            program = self.running.pop(uid)
            await asyncio.to_thread(program.end)
        for pod in pods:
            meta = pod["metadata"]
            image = pod["spec"]["containers"][0]["image"]
            if meta.get("deletionTimestamp") or (pod.get("status") or {}).get("phase") in (
                "Succeeded",
                "Failed",
            ):
                continue
            if image not in self.sources:
                await look_after(api, pod)
            elif meta["uid"] in self.running:
                await self._report(api, pod, self.running[meta["uid"]])
            else:
                self.running[meta["uid"]] = await self._start(api, pod)
        await bind_claims(api)

    async def _start(self, api: Client, pod: Object) -> Program:
        container, namespace = pod["spec"]["containers"][0], pod["metadata"]["namespace"]
        ports = free_port(), free_port()
        variables = {
            **os.environ,
            **{
                one["name"]: await _value(api, namespace, one) for one in container.get("env") or ()
            },
            **self.environment,
            "PYTHONPATH": str(self.sources[container["image"]]),
            "KUBECONFIG": str(self.kubeconfig),
            "VDI_KUBECONFIG": str(self.kubeconfig),
            "VDI_PUBLIC_ADDR": f"127.0.0.1:{ports[0]}",
            "VDI_INTERNAL_ADDR": f"127.0.0.1:{ports[1]}",
            "VDI_METRICS_ADDR": f"127.0.0.1:{ports[1]}",
        }
        words = {
            "operator": ["-m", "vdi", "operator", "run"],
            "gateway": ["-m", "vdi", "gateway", "run"],
        }
        path = self.folder / f"{pod['metadata']['name']}.log"
        process = _open_process([sys.executable, "-P", *words[container["name"]]], variables, path)
        return Program(container["name"], container["image"], process, *ports, path)

    async def _report(self, api: Client, pod: Object, program: Program) -> None:
        exit_code = program.process.poll()
        now = exit_code, exit_code is None and await asyncio.to_thread(program.is_ready)
        if "containerStatuses" in pod["status"] and now == program.reported:
            return
        state: Object = {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}}
        if exit_code is not None:
            message = program.log.read_text()[-2000:]
            state = {
                "terminated": {
                    "exitCode": exit_code,
                    "message": message,
                    "reason": "Error" if exit_code else "",
                }
            }
        await set_status(api, pod, "Running", {program.name: state}, ready=now[1])
        program.reported = now


def _open_process(
    command: list[str], variables: dict[str, str], path: Path
) -> "subprocess.Popen[bytes]":
    with path.open("ab") as log:
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


async def _value(api: Client, namespace: str, variable: Object) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    reference = source["secretKeyRef"]
    try:
        secret = await api.get(SECRETS, reference["name"], namespace=namespace, into=Object)
    except NotFound:
        return ""
    return base64.b64decode(secret["data"][reference["key"]]).decode()


@contextmanager
def programs_run(pods: ProgramPods) -> Iterator[ProgramPods]:
    """A node that is Ready, bound claims, and pods that run, while the context lasts."""
    try:
        with kubelet(pods.kubeconfig, pods.look):
            yield pods
    finally:
        for program in pods.running.values():
            program.end()
