"""An API server on loopback that has the objects of a `Cluster`, and notes what is read of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from unit.doctor.doctor_builders import Cluster, Object
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client


class ApiServer:
    """`requests`: paths in the order in which they came. `log_error`: the answer in place of
    logs.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.requests: list[str] = []
        self.log_error = ""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            config = ClusterConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with Client(config, field_manager="doctor") as client:
                yield client

    @property
    def kinds(self) -> set[str]:
        """Plurals of the kinds that were read, `pods/log` among them."""
        return {_parts(urlsplit(path).path)[0] for path in self.requests}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.requests.append(path)
                status, body = self._answer(path)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _answer(self, path: str) -> tuple[int, bytes]:
        url = urlsplit(path)
        plural, namespace, name = _parts(url.path)
        if plural == "pods/log" and self.log_error:
            return 500, json.dumps({"kind": "Status", "message": self.log_error}).encode()
        if plural == "pods/log":
            return 200, "\n".join(self.cluster.logs.get(f"{namespace}/{name}", [])).encode()
        objects = self.cluster.objects.get(plural, [])
        if name:
            found = [one for one in objects if one["metadata"]["name"] == name]
            return (200, json.dumps(found[0]).encode()) if found else (404, b"{}")
        if namespace:
            objects = [one for one in objects if one["metadata"].get("namespace") == namespace]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        return 200, json.dumps(_page(objects, query)).encode()


def _page(objects: list[Object], query: dict[str, str]) -> Object:
    begin, size = int(query.get("continue", 0)), int(query.get("limit", len(objects) or 1))
    meta = {"resourceVersion": "1"}
    if begin + size < len(objects):
        meta["continue"] = str(begin + size)
    return {"metadata": meta, "items": objects[begin : begin + size]}


def _parts(path: str) -> tuple[str, str, str]:
    """Plural, namespace and name; the last two are empty where they are not in the path."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    plural, name = parts[0], parts[1] if len(parts) > 1 else ""
    return "/".join([plural, *parts[2:]]), namespace, name
