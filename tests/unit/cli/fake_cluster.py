"""`FakeApi` in a thread of its own, so that commands can run their own event loop against it, with
objects by path.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from support.waiting import PATIENCE, eventually
from support.web_server import serve_app
from unit.kube.kube_fake_api import FakeApi, parts_of, status
from unit.kube.kube_things import a_kubeconfig

Obj = dict[str, Any]
_PLURALS = {
    "vdisessions", "vditemplates", "vdipools", "pods", "services", "secrets", "events", "ingressroutes",
    "persistentvolumeclaims",
}  # fmt: skip


class InThread:
    """A server with an event loop in a thread of its own, so that commands can run theirs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        raise NotImplementedError

    def _run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        # The runner also cancels what aiohttp has lost sight of: a watch that began after `stop`,
        # whose client left.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(ready, stop))

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve until the context ends. A server that fails, or does not end, fails here: later it
        would fail whatever test runs then, and log into it.
        """
        ready, stop = threading.Event(), asyncio.Event()
        thread = ThreadPoolExecutor(1)
        serving = thread.submit(self._run, ready, stop)
        serving.add_done_callback(lambda _: ready.set())
        thread.shutdown(wait=False)
        try:
            assert ready.wait(PATIENCE), "the server has not started"
            if not serving.done():
                yield self
        finally:
            with suppress(RuntimeError):  # it has ended by itself, and says why
                self._loop.call_soon_threadsafe(stop.set)
            serving.result(PATIENCE)


class FakeCluster(InThread):
    """An API server whose objects a test names by URL path. Methods may be called from the test's
    thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Obj] = []
        self.logs: dict[str, str] = {}
        self.answers: dict[tuple[str, str], tuple[int, Obj]] = {}
        self.plays: list[asyncio.Task[None]] = []
        self._api = _Api(self)
        self._collections: dict[tuple[str, str], str] = {}
        self._on_write: list[Obj] = []
        self._noticed: Callable[[Obj], bool] = lambda _status: True

    @property
    def objects(self) -> dict[str, Obj]:
        """Each object by its path."""
        stored = self._api.objects.items()
        return {
            f"{self._collections[plural, namespace]}/{name}": obj
            for (plural, namespace, name), obj in stored
        }

    def put(self, collection: str, obj: Obj) -> None:
        """Store an object and tell the watches."""
        plural, namespace = self.know(collection)
        parts = json.loads(json.dumps(obj))
        self._do(
            lambda: self._api.put(plural, obj["metadata"]["name"], namespace=namespace, **parts)
        )

    def drop(self, path: str) -> None:
        """Remove an object and tell the watches."""
        plural, namespace, name = parts_of(path)
        self._do(lambda: self._api.remove(plural, name, namespace=namespace))

    def refuse(self, method: str, path: str, code: int, **answer: Any) -> None:
        """Answer this request with a failure."""
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, **answer}
        self.answers[method, path] = code, body

    def answer(self, method: str, path: str, obj: Obj) -> None:
        """Answer this request so."""
        self.answers[method, path] = 200, obj

    def after_write(
        self, *statuses: Obj, noticed: Callable[[Obj], bool] = lambda _status: True
    ) -> None:
        """Play the operator: after the next create or patch, give the object these statuses in
        turn.

        The next one comes when `noticed` says that the command has seen the one before: a watch may
        skip it otherwise.
        """
        self._on_write = list(statuses)
        self._noticed = noticed

    def know(self, collection: str) -> tuple[str, str]:
        """Plural and namespace of a collection, whose path is remembered."""
        plural, namespace, _ = parts_of(collection)
        self._collections[plural, namespace] = collection
        return plural, namespace

    async def play(self, plural: str, namespace: str, name: str) -> None:
        """What `after_write` announced."""
        statuses, self._on_write = self._on_write, []
        if statuses:
            await eventually(lambda: self._api.watching, "a watch is open")
        for shown in statuses:
            self._api.put(plural, name, namespace=namespace, status=shown)
            await eventually(partial(self._noticed, shown), f"the command has seen {shown}")

    def _do(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._api.serve)
        async with serve_app(app) as port:
            self.url = f"http://127.0.0.1:{port}"
            ready.set()
            await stop.wait()
            await self._api.cut_streams()
        for play in self.plays:
            play.cancel()  # the command has ended before it noticed all
        for outcome in await asyncio.gather(*self.plays, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig for this server."""
        return a_kubeconfig(folder / "kubeconfig", name="fake", server=self.url)


class _Api(FakeApi):
    """FakeApi with what commands need besides: logs, generations, and the answers that a test has
    given.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__()
        self._cluster = cluster

    async def serve(self, request: web.Request) -> web.StreamResponse:
        cluster, method, path = self._cluster, request.method, request.path
        cluster.requests.append((method, path))
        if (method, path) in cluster.answers:
            code, body = cluster.answers[method, path]
            return web.json_response(body, status=code)
        key = parts_of(path)
        if key[0] not in _PLURALS:
            body = status(404, "NotFound", "the server could not find the requested resource")
            return web.json_response(body, status=404)
        if path.endswith("/log") and key in self.objects:
            return web.Response(text=cluster.logs[path.removesuffix("/log")])
        if method in ("POST", "PATCH"):
            cluster.bodies.append(await request.json())
        if method == "POST":
            key = *cluster.know(path), cluster.bodies[-1]["metadata"]["name"]
        response = await super()._serve(request)
        if method in ("POST", "PATCH") and response.status == 200:
            cluster.plays.append(asyncio.create_task(cluster.play(*key)))
        return response

    def _do(self, method: str, plural: str, namespace: str, name: str, body: Obj) -> Obj:
        before = self.objects.get((plural, namespace, name), {})
        done = super()._do(method, plural, namespace, name, body)
        if method == "PATCH" and done.get("spec") != before.get("spec"):
            done["metadata"]["generation"] = done["metadata"].get("generation", 0) + 1
        return done

    def put(self, plural: str, name: str, *, namespace: str = "ns", **parts: Any) -> Obj:
        made = (
            {"creationTimestamp": "2026-11-20T08:00:00Z"}
            if (plural, namespace, name) not in self.objects
            else {}
        )
        return super().put(
            plural,
            name,
            namespace=namespace,
            **{**parts, "metadata": made | parts.get("metadata", {})},
        )
