"""A kubelet's stand-in for the pods that copy homes: their commands run here, on a folder for each volume.

What `vdi home` starts as kubectl runs its command beside the pod's own, as `kubectl exec` does.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdi.home_copy.pod import LABELS, MOUNT
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, PODS
from vdi.kube.transport import Client

Object = dict[str, Any]
_HELD = "/tmp/held"
_KUBECTL = """#!{python}
import os, sys
words = sys.argv[1:]
folder = os.path.realpath(os.path.join({pods!r}, words[words.index("--stdin") + 1]))
script = words[-1].replace({mount!r}, folder + "/home").replace({held!r}, folder + "/held")
{before}
os.execvp("sh", ["sh", "-c", script])
"""


@dataclass
class HomePods:
    """The volumes and the pods on them."""

    api: Client
    namespace: str
    folder: Path
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    """By the pod's uid."""
    seen: list[Object] = field(default_factory=list)
    """All pods that have run."""

    def volume(self, uid: str) -> Path:
        """The files of the claim with this uid."""
        path = self.folder / "volumes" / uid / "home"
        path.mkdir(parents=True, exist_ok=True)
        return path

    async def home(self, claim: str) -> Path:
        """The files of a claim."""
        found = await self.api.get(CLAIMS, claim, namespace=self.namespace, into=Object)
        return self.volume(found["metadata"]["uid"])

    def kubectl(self, name: str = "kubectl", before: str = "") -> Path:
        """The program; `before` is Python that runs first, with `script` to change."""
        path = self.folder / name
        pods = str(self.folder / "pods")
        text = _KUBECTL.format(python=sys.executable, pods=pods, mount=MOUNT, held=_HELD, before=before)
        path.write_text(text)
        path.chmod(0o755)
        return path

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HomePods"]:
        """Pods run while the context lasts."""
        (self.folder / "pods").mkdir()
        task = asyncio.create_task(self._live())
        try:
            yield self
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for uid in list(self.processes):
                await self._end(uid)

    async def _live(self) -> None:
        labels = ",".join(f"{key}={value}" for key, value in LABELS.items())
        while True:
            pods = await self.api.list(PODS, namespace=self.namespace, label_selector=labels, into=Object)
            present = {pod["metadata"]["uid"] for pod in pods}
            for uid in self.processes.keys() - present:
                await self._end(uid)
            for pod in pods:
                with suppress(NotFound):
                    await self._look_after(pod)
            await asyncio.sleep(0.05)

    async def _look_after(self, pod: Object) -> None:
        meta, uid = pod["metadata"], pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if process is None and pod["status"]["phase"] == "Pending":
            source = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "home")
            folder = (await self.home(source["persistentVolumeClaim"]["claimName"])).parent
            link = self.folder / "pods" / meta["name"]
            link.unlink(missing_ok=True)
            link.symlink_to(folder)
            (folder / "held").unlink(missing_ok=True)
            words = [word.replace(_HELD, f"{folder}/held") for word in pod["spec"]["containers"][0]["command"]]
            self.processes[uid] = await asyncio.create_subprocess_exec(*words, start_new_session=True)
            self.seen.append(pod)
            await self._report(pod, "Running")
        elif process is not None and process.returncode is not None and pod["status"]["phase"] == "Running":
            await self._report(pod, "Succeeded" if process.returncode == 0 else "Failed")

    async def _report(self, pod: Object, phase: str) -> None:
        name = pod["metadata"]["name"]
        body = {"status": {"phase": phase}}
        await self.api.patch(PODS, name, body, namespace=self.namespace, subresource="status", into=Object)

    async def _end(self, uid: str) -> None:
        process = self.processes.pop(uid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
