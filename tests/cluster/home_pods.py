"""A kubelet's stand-in for the pods that copy homes: their commands run here, on a folder for each
volume.

What `vdi home` starts as kubectl runs its command beside the pod's own, as `kubectl exec` does.
"""

import asyncio
import hashlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.operator_stage import Stage
from vdi.home_copy.pod import LABELS, MOUNT
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, PODS
from vdi.kube.transport import Client
from vdi.session.naming import home_claim_name

Object = dict[str, Any]
ALICE, BOB = "alice@example.com", "bob@example.com"
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
    # By the pod's uid.
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    # All pods that have run.
    seen: list[Object] = field(default_factory=list)

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
        text = _KUBECTL.format(
            python=sys.executable, pods=pods, mount=MOUNT, held=_HELD, before=before
        )
        path.write_text(text)
        path.chmod(0o755)
        return path

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HomePods"]:
        """Pods run while the context lasts."""
        (self.folder / "pods").mkdir()
        stop = asyncio.Event()
        task = asyncio.create_task(self._live(stop))
        try:
            yield self
            assert not task.done(), task.exception()
        finally:
            # Not cancelled: a process that was just being started or ended would be left behind.
            stop.set()
            try:
                await task
            finally:
                for uid in list(self.processes):
                    await self._end(uid)

    async def _live(self, stop: asyncio.Event) -> None:
        labels = ",".join(f"{key}={value}" for key, value in LABELS.items())
        while not stop.is_set():
            pods = await self.api.list(
                PODS, namespace=self.namespace, label_selector=labels, into=Object
            )
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
            words = [
                word.replace(_HELD, f"{folder}/held")
                for word in pod["spec"]["containers"][0]["command"]
            ]
            self.processes[uid] = await asyncio.create_subprocess_exec(
                *words, start_new_session=True
            )
            self.seen.append(pod)
            await self._report(pod, "Running")
        elif (
            process is not None
            and process.returncode is not None
            and pod["status"]["phase"] == "Running"
        ):
            await self._report(pod, "Succeeded" if process.returncode == 0 else "Failed")

    async def _report(self, pod: Object, phase: str) -> None:
        name = pod["metadata"]["name"]
        ready = {"type": "Ready", "status": str(phase == "Running")}
        body = {"status": {"phase": phase, "conditions": [ready]}}
        await self.api.patch(
            PODS, name, body, namespace=self.namespace, subresource="status", into=Object
        )

    async def _end(self, uid: str) -> None:
        process = self.processes.pop(uid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


@dataclass
class Homes:
    """A namespace with homes, and the commands that are typed at it."""

    stage: Stage
    pods: HomePods
    template: str
    kubeconfig: Path
    folder: Path

    async def start(
        self, *words: str | Path, stdin: int | None = None
    ) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("VDI_")
        }
        environment |= {"KUBECONFIG": str(self.kubeconfig), "VDI_NAMESPACE": self.stage.namespace}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vdi", "home", *map(str, words)),
            env=environment,
            stdin=stdin or asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )

    async def vdi(
        self, *words: str | Path, kubectl: Path | None = None, stdin: bytes | None = None
    ) -> Ended:
        program = kubectl or self.pods.kubectl()
        pipe = asyncio.subprocess.PIPE if stdin is not None else None
        process = await self.start(*words, "--kubectl", program, stdin=pipe)
        out, err = await asyncio.wait_for(process.communicate(stdin), 100)
        assert process.returncode is not None
        return Ended(process.returncode, out, err.decode())

    def import_words(self, file: str | Path, user: str = BOB) -> list[str | Path]:
        return ["import", file, "--user", user, "--template", self.template]

    def claim(self, user: str) -> str:
        return home_claim_name(session_name="", user=user, template=self.template, retain=True)

    async def make(self, user: str) -> Path:
        """A home as the operator makes it; its files."""
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": self.claim(user),
                "labels": {"app.kubernetes.io/managed-by": "vdi-operator"},
                "annotations": {"vdi.kasm.io/user": user, "vdi.kasm.io/template": self.template},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local-path",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        await self.stage.api.create(CLAIMS, body, namespace=self.stage.namespace, into=dict)
        return await self.pods.home(self.claim(user))

    async def nothing_left(self, claim: str) -> None:
        """Wait until neither the home nor a pod is there."""
        await self.stage.gone(CLAIMS, claim)
        assert await self.stage.all(PODS) == []


@asynccontextmanager
async def open_homes(stage: Stage, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Homes]:
    """A template, its homes, and pods on them, in a namespace with Pod Security `restricted`."""
    await stage.restrict()
    template = await stage.template(
        persistence={"size": "2Gi"},
        runAsUser=1234,
        placement={"nodeSelector": stage.here},
        resources={"defaultGPU": 0},
    )
    folder = tmp_path / "homes"
    folder.mkdir()
    async with HomePods(stage.api, stage.namespace, folder).running() as pods:
        yield Homes(stage, pods, template, kubeconfig, tmp_path)


def fill(home: Path) -> None:
    """Files of every kind that a home has."""
    (home / "paper.txt").write_text("precious")
    (home / "paper.txt").chmod(0o640)
    deep = home / "a b" / ".c"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to("../../paper.txt")
    (deep / "lost").symlink_to("nowhere")
    os.link(home / "paper.txt", deep / "same")
    os.setxattr(home / "paper.txt", "user.origin", b"scan")
    Path(os.fsdecode(bytes(home / "caf") + b"\xe9")).write_bytes(os.urandom(300_000))
    with (home / "sparse").open("wb") as file:
        file.truncate(40 << 20)
        file.write(b"begin")
    os.mkfifo(home / "pipe")
    (home / "run.sh").write_text("#!/bin/sh\n")
    (home / "run.sh").chmod(0o775)
    (deep / "cache").mkdir()
    (deep / "cache" / "mod").write_text("x")
    os.utime(home / "run.sh", (1_500_000_000, 1_500_000_000))
    (deep / "cache").chmod(0o555)


def contents(home: Path) -> dict[str, tuple[object, ...]]:
    """All that must be the same after a copy."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(home.rglob("*")):
        seen = path.lstat()
        name = os.fsencode(path.relative_to(home)).decode("latin-1")
        what: object = None
        if stat.S_ISREG(seen.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_symlink():
            what = str(path.readlink())
        attributes = (
            []
            if path.is_symlink()
            else [(key, os.getxattr(path, key)) for key in os.listxattr(path)]
        )
        first = inodes.setdefault(seen.st_ino, name)
        found[name] = (oct(seen.st_mode), int(seen.st_mtime), what, first, attributes)
    return found
