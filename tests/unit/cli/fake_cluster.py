"""A small API server on loopback, in a thread of its own, so that commands can run their own event loop against it.

It keeps objects and serves list, get, create, merge patch, delete and watch; a test scripts the rest (`refuse`, `put`,
`drop`).
"""

import asyncio
import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from support.waiting import eventually
from support.web_server import listen
from unit.kube.kube_fake_api import matches_labels

Obj = dict[str, Any]


class FakeCluster:
    """Objects by URL path. Methods may be called from the test's thread."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, Obj] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Obj] = []
        self.logs: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Obj] = {}
        self._refusals: dict[tuple[str, str], tuple[int, Obj]] = {}
        self._on_write: list[Obj] = []
        self._noticed: Callable[[Obj], bool] = lambda _status: True
        self._version = 100
        self._watches: list[tuple[str, asyncio.Queue[Obj | None]]] = []
        self._loop = asyncio.new_event_loop()

    def put(self, collection: str, obj: Obj) -> None:
        """Store an object and tell the watches."""
        asyncio.run_coroutine_threadsafe(self._put(collection, obj), self._loop).result()

    def drop(self, path: str) -> None:
        """Remove an object and tell the watches."""
        asyncio.run_coroutine_threadsafe(self._drop(path), self._loop).result()

    def refuse(self, method: str, path: str, status: int, **answer: Any) -> None:
        """Answer this request with a failure."""
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, **answer}
        self._refusals[(method, path)] = (status, body)

    def answer(self, method: str, path: str, obj: Obj) -> None:
        """Answer this request so."""
        self._answers[(method, path)] = obj

    def after_write(self, *statuses: Obj, noticed: Callable[[Obj], bool] = lambda _status: True) -> None:
        """Play the operator: after the next create or patch, give the watched object these statuses in turn.

        The next one comes when `noticed` says that the command has seen the one before: a watch may skip it otherwise.
        """
        self._on_write = list(statuses)
        self._noticed = noticed

    async def _put(self, collection: str, obj: Obj) -> Obj:
        self._version += 1
        meta = obj["metadata"]
        path = f"{collection}/{meta['name']}"
        kind = "MODIFIED" if path in self.objects else "ADDED"
        meta["resourceVersion"] = str(self._version)
        meta.setdefault("uid", f"uid-{self._version}")
        meta.setdefault("creationTimestamp", "2026-11-20T08:00:00Z")
        self.objects[path] = obj
        self._tell(collection, kind, obj)
        return obj

    async def _drop(self, path: str) -> None:
        self._version += 1
        obj = self.objects.pop(path)
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._tell(path.rpartition("/")[0], "DELETED", obj)

    def _tell(self, collection: str, kind: str, obj: Obj) -> None:
        for watched, queue in self._watches:
            if _covers(watched, collection):
                queue.put_nowait({"type": kind, "object": copy.deepcopy(obj)})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.requests.append((request.method, path))
        if refusal := self._refusals.get((request.method, path)):
            return web.json_response(refusal[1], status=refusal[0])
        if answer := self._answers.get((request.method, path)):
            return web.json_response(answer)
        if path.endswith("/log"):
            return self._log(path)
        if request.method == "POST":
            return await self._create(path, await request.json())
        if request.method == "PATCH":
            return await self._patch(path, await request.json())
        if request.method == "DELETE":
            return await self._delete(path)
        if path in self.objects:
            return web.json_response(self.objects[path])
        if request.query.get("watch"):
            return await self._watch(request)
        if path.rpartition("/")[2] in _PLURALS:
            return self._list(request)
        return self._missing(path)

    def _log(self, path: str) -> web.Response:
        pod = path.removesuffix("/log")
        if pod not in self.objects:
            return self._missing(pod)
        return web.Response(text=self.logs[pod])

    async def _create(self, collection: str, obj: Obj) -> web.Response:
        self.bodies.append(copy.deepcopy(obj))
        name = obj["metadata"]["name"]
        if f"{collection}/{name}" in self.objects:
            body = {"kind": "Status", "reason": "AlreadyExists", "code": 409, "message": f"{name} already exists"}
            return web.json_response(body, status=409)
        created = await self._put(collection, obj)
        self._start_playing(collection, name)
        return web.json_response(created, status=201)

    async def _patch(self, path: str, patch: Obj) -> web.Response:
        self.bodies.append(copy.deepcopy(patch))
        if path not in self.objects:
            return self._missing(path)
        merged = _merged(self.objects[path], patch)
        if merged["spec"] != self.objects[path]["spec"]:
            merged["metadata"]["generation"] = merged["metadata"].get("generation", 0) + 1
        collection, _, name = path.rpartition("/")
        changed = await self._put(collection, merged)
        self._start_playing(collection, name)
        return web.json_response(changed)

    def _start_playing(self, collection: str, name: str) -> None:
        if self._on_write:
            asyncio.get_running_loop().create_task(self._play(collection, name))

    async def _play(self, collection: str, name: str) -> None:
        await eventually(lambda: any(_covers(watched, collection) for watched, _ in self._watches), "a watch is open")
        for status in self._on_write:
            await self._put(collection, {**self.objects[f"{collection}/{name}"], "status": status})
            await eventually(partial(self._noticed, status), f"the command has seen {status}")

    async def _delete(self, path: str) -> web.Response:
        if path not in self.objects:
            return self._missing(path)
        await self._drop(path)
        return web.json_response({"kind": "Status", "status": "Success"})

    def _list(self, request: web.Request) -> web.Response:
        items = [obj for path, obj in self.objects.items() if _covers(request.path, path.rpartition("/")[0])]
        if selector := request.query.get("fieldSelector"):
            items = [obj for obj in items if _selected(obj, selector)]
        items = [obj for obj in items if matches_labels(obj, request.query.get("labelSelector", ""))]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[Obj | None] = asyncio.Queue()
        entry = (request.path, queue)
        self._watches.append(entry)
        since = int(request.query.get("resourceVersion") or 0)
        for path, obj in self.objects.items():  # what came between the list and this watch
            if _covers(request.path, path.rpartition("/")[0]) and int(obj["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "MODIFIED", "object": obj})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        selector, labels = request.query.get("fieldSelector", ""), request.query.get("labelSelector", "")
        try:
            await response.prepare(request)
            while event := await queue.get():
                if _selected(event["object"], selector) and matches_labels(event["object"], labels):
                    await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            self._watches.remove(entry)
        return response

    def _missing(self, path: str) -> web.Response:
        plural, _, name = path.split("/", 3)[-1].rpartition("/")
        body = {
            "kind": "Status",
            "reason": "NotFound",
            "code": 404,
            "message": f'{plural.rpartition("/")[2]} "{name}" not found',
            "details": {"name": name},
        }
        return web.json_response(body, status=404)

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        listening = listen()
        await web.SockSite(runner, listening).start()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        ready.set()
        await stop.wait()
        for _, queue in self._watches:
            queue.put_nowait(None)
        server = runner.server
        assert server is not None
        await finish_accepting(listening)
        connections = [connection.transport for connection in server.connections]
        await runner.cleanup()
        for transport in connections:
            if transport is not None:
                transport.abort()  # one that still has something to send would outlive the loop

    def _run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        # The runner also cancels what aiohttp has lost sight of: a watch that began after `stop`, whose client left.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(ready, stop))

    @contextmanager
    def running(self) -> Iterator["FakeCluster"]:
        """Serve until the context ends."""
        ready, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=self._run, args=(ready, stop))
        thread.start()
        try:
            assert ready.wait(30)
            yield self
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            thread.join(30)

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig for this server."""
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {"token": "none"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester"}}],
            "current-context": "fake",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(text))
        return path


async def finish_accepting(listening: socket.socket) -> None:
    """Accept no one any more, and wait for whom is being accepted.

    asyncio's server, once closed, loses a connection between accept() and its transport: its socket stays open.
    """
    asyncio.get_running_loop().remove_reader(listening)
    if accepting := {task for task in asyncio.all_tasks() if "_accept_connection" in repr(task.get_coro())}:
        await asyncio.wait(accepting, timeout=5)


_PLURALS = {
    "vdisessions", "vditemplates", "vdipools", "pods", "services", "secrets", "events", "ingressroutes",
    "persistentvolumeclaims",
}  # fmt: skip


def _merged(old: Obj, patch: Obj) -> Obj:
    """JSON merge patch (RFC 7396)."""
    new = copy.deepcopy(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = _merged(new.get(key, {}), value) if isinstance(value, dict) else value
    return new


def _covers(asked: str, collection: str) -> bool:
    """Whether a list or watch of `asked` includes a collection: the same, or all namespaces of it."""
    plural = asked.rpartition("/")[2]
    everywhere = "/namespaces/" not in asked
    return asked == collection or (everywhere and collection.endswith(f"/{plural}") and "/namespaces/" in collection)


def _selected(obj: Obj, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, _, desired = term.partition("=")
        value: Any = obj
        for part in path.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if value != desired:
            return False
    return True
