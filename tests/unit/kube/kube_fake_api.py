"""An API server on the loopback address that keeps objects, serves watches, and fails on request.

It does what the real one does where the runtime depends on it (versions, uids, paging, 410,
bookmarks, merge patches, selectors, field ownership only in name); tests/cluster checks the same
things against the real one. A watch hears nothing of an object that stops matching its selector,
where the real one sends DELETED.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiohttp import web

from vdi.kube.config import ClusterConfig

Obj = dict[str, Any]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def status(code: int, reason: str, message: str = "as told by the test", **details: Any) -> Obj:
    return {
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


def refusal(
    code: int, reason: str, *, headers: dict[str, str] | None = None, **details: Any
) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse:
        return web.json_response(status(code, reason, **details), status=code, headers=headers)

    return fault


class FakeApi:
    def __init__(self) -> None:
        self.version = 100
        # Watches and continue tokens from before this version get 410.
        self.oldest = 0
        self.objects: dict[tuple[str, str, str], Obj] = {}
        self.history: list[tuple[int, str, str, Obj]] = []
        # (method, path, query, decoded body, headers) of each request, watches as WATCH.
        self.requests: list[tuple[str, str, dict[str, str], Any, dict[str, str]]] = []
        # (method, what happens instead) for the next requests of that method; None goes on as
        # usual.
        self.faults: list[tuple[str, Fault]] = []
        # Watches stay open and say nothing.
        self.silent = False
        self._news = asyncio.Condition()
        self._streams: set[web.StreamResponse] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._tls: ssl.SSLContext | None = None

    # -- life

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or self._tls
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        await self.cut_streams()
        assert self._runner is not None
        await self._runner.cleanup()

    def config(self, **more: Any) -> ClusterConfig:
        scheme = "https" if self._tls else "http"
        return ClusterConfig(server=f"{scheme}://127.0.0.1:{self._port}", **more)

    async def cut_streams(self) -> None:
        """Break every watch in the middle, as a dying server does."""
        for stream in list(self._streams):
            transport = stream._req.transport if stream._req is not None else None
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)

    async def say(self, raw: bytes) -> None:
        """Write bytes into every open watch."""
        for stream in list(self._streams):
            await stream.write(raw)

    @property
    def watching(self) -> int:
        return len(self._streams)

    def count(self, method: str) -> int:
        return sum(1 for request in self.requests if request[0] == method)

    # -- what other people do to the cluster

    def put(self, plural: str, name: str, *, namespace: str = "ns", **parts: Any) -> Obj:
        """Create or change an object."""
        key = (plural, namespace, name)
        old = self.objects.get(key)
        self.version += 1
        obj: Obj = json.loads(json.dumps({**(old or {}), **parts}))
        meta = {"uid": str(uuid4()), **(old or {}).get("metadata", {}), **parts.get("metadata", {})}
        obj["metadata"] = {
            **meta,
            "name": name,
            "namespace": namespace,
            "resourceVersion": str(self.version),
        }
        self.objects[key] = obj
        self._tell(plural, "MODIFIED" if old else "ADDED", obj)
        return obj

    def remove(self, plural: str, name: str, *, namespace: str = "ns") -> None:
        obj = self.objects.pop((plural, namespace, name))
        self.version += 1
        last = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self._tell(plural, "DELETED", last)

    def forget_history(self) -> None:
        """As etcd's compaction does: whoever is behind must list again."""
        self.version += 1
        self.oldest = self.version

    def bookmark(self, plural: str) -> None:
        self._tell(plural, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def _tell(self, plural: str, kind: str, obj: Obj) -> None:
        self.history.append((self.version, plural, kind, json.loads(json.dumps(obj))))
        task = asyncio.ensure_future(self._notify())
        task.add_done_callback(lambda _: None)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    # -- requests

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        method = "WATCH" if request.query.get("watch") else request.method
        body = await request.read()
        self.requests.append(
            (
                method,
                request.path,
                dict(request.query),
                json.loads(body) if body else None,
                dict(request.headers),
            )
        )
        for number, (desired, fault) in enumerate(self.faults):
            if desired == method:
                del self.faults[number]
                answer = await fault(request)
                if answer is not None:
                    return answer
                break
        plural, namespace, name = parts_of(request.path)
        try:
            if method == "WATCH":
                return await self._watch(request, plural, namespace)
            if method == "GET" and not name:
                return self._list(request, plural, namespace)
            return web.json_response(
                self._do(method, plural, namespace, name, json.loads(body) if body else {})
            )
        except _Refused as refused:
            return web.json_response(refused.args[0], status=refused.args[0]["code"])

    def _do(self, method: str, plural: str, namespace: str, name: str, body: Obj) -> Obj:
        if method == "POST":
            name = body["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                raise _Refused(status(409, "AlreadyExists", name=name))
            return self.put(plural, name, namespace=namespace, **body)
        present = self.objects.get((plural, namespace, name))
        if present is None:
            raise _Refused(status(404, "NotFound", name=name))
        if method == "DELETE":
            uid = body.get("preconditions", {}).get("uid")
            if uid and uid != present["metadata"]["uid"]:
                raise _Refused(
                    status(409, "Conflict", "the UID in the precondition differs", name=name)
                )
            if body.get("dryRun"):
                return present
            if present["metadata"].get("finalizers"):
                return self.put(
                    plural,
                    name,
                    namespace=namespace,
                    metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"},
                )
            self.remove(plural, name, namespace=namespace)
            return {"kind": "Status", "status": "Success"}
        if method == "PATCH":
            desired = body.get("metadata", {}).get("resourceVersion")
            if desired and desired != present["metadata"]["resourceVersion"]:
                raise _Refused(status(409, "Conflict", name=name))
            # Stored before `put`, which keeps what it is not given: a patch also removes.
            merged = self.objects[plural, namespace, name] = _merge(present, body)
            held, holds = (bool(obj["metadata"].get("finalizers")) for obj in (present, merged))
            if held and not holds and merged["metadata"].get("deletionTimestamp"):
                self.remove(plural, name, namespace=namespace)
                return merged
            return self.put(plural, name, namespace=namespace)
        return present

    def _list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        token = request.query.get("continue", "")
        version, start = (int(part) for part in token.split(":")) if token else (self.version, 0)
        if version < self.oldest:
            raise _Refused(status(410, "Expired", "The provided continue parameter is too old"))
        present = (obj for (kind, _, _), obj in sorted(self.objects.items()) if kind == plural)
        found = [obj for obj in present if _is_selected(request, namespace, obj)]
        limit = int(request.query.get("limit") or 0) or len(found)
        more = f"{version}:{start + limit}" if start + limit < len(found) else ""
        metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
        return web.json_response(
            {"kind": "List", "metadata": metadata, "items": found[start : start + limit]}
        )

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            raise _Refused(status(410, "Expired", "too old resource version"))
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        self._streams.add(answer)
        sent = next(
            (n for n, event in enumerate(self.history) if event[0] > since), len(self.history)
        )
        try:
            while True:
                for _, kind, event, obj in self.history[sent:]:
                    selected = event == "BOOKMARK" or _is_selected(request, namespace, obj)
                    if kind == plural and selected and not self.silent:
                        await answer.write(
                            json.dumps({"type": event, "object": obj}).encode() + b"\n"
                        )
                sent = len(self.history)
                async with self._news:
                    if sent == len(self.history):
                        await self._news.wait()
        except ConnectionError:
            return answer
        finally:
            self._streams.discard(answer)


class _Refused(Exception):  # noqa: N818 - not an error of ours: an answer
    pass


def parts_of(path: str) -> tuple[str, str, str]:
    words = path.split("/")
    words = words[3:] if words[1] == "api" else words[4:]
    if words[0] == "namespaces" and len(words) > 2:
        return words[2], words[1], words[3] if len(words) > 3 else ""
    return words[0], "", words[1] if len(words) > 1 else ""


def _is_selected(request: web.Request, namespace: str, obj: Obj) -> bool:
    """Whether a list or watch includes the object, by its namespace and its selectors."""
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, desired = term.partition("=")
        value: Any = obj
        for part in path.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if value != desired:
            return False
    is_in = namespace in ("", obj["metadata"]["namespace"])
    return is_in and matches_labels(obj, request.query.get("labelSelector", ""))


def matches_labels(obj: Obj, selector: str) -> bool:
    """Whether the object has such labels: terms `k=v`, `k!=v`, `k` and `!k`."""
    assert "(" not in selector, f"{selector}: sets are not implemented"
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        name = key.strip("!")
        found = labels.get(name) == value if equals else name in labels
        if found == ("!" in key):
            return False
    return True


def _merge(target: Obj, patch: Obj) -> Obj:
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merge(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged


@asynccontextmanager
async def fake_api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
