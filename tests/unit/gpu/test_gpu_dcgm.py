"""What the DCGM exporter's pages say, and how the API server is asked for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from support.builders import a_session, a_template
from support.web_server import serve_app
from unit.gpu.gpu_states import a_node, configured
from unit.kube.kube_fake_api import fake_api, refusal, status
from vdi.cli.gpu import status_lines, user_lines
from vdi.gpu import cluster as measuring
from vdi.gpu.cluster import UnreadableError, collect, measure
from vdi.gpu.sharing.dcgm import BadPageError, Gpu, GpuMeasurements, read_page
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client

PAGES = Path(__file__).parents[2] / "dcgm"
NAMESPACE, NAME = "gpu-operator", "nvidia-dcgm-exporter"
GPU = {"nvidia.com/gpu.present": "true"}


def page(name: str) -> str:
    return (PAGES / f"{name}.txt").read_text()


def test_a_shared_gpu_counts_once() -> None:
    first, second = read_page(page("shared"))
    assert first == Gpu("0", "NVIDIA L4", 0.62, 10240, 22528)
    assert second == Gpu("1", "NVIDIA L4", 0.1, 0, 22528)
    assert GpuMeasurements(nodes={"gpu-b": (first, second)}).busy("gpu-b") == pytest.approx(0.36)


def test_gpu_util_is_read_without_profiling() -> None:
    (gpu,) = read_page(page("old"))
    assert gpu == Gpu("0", "Tesla M60", 0.85, None, None)


def test_with_mig_the_parts_count_and_gpu_util_does_not() -> None:
    (gpu,) = read_page(page("mig"))
    assert gpu == Gpu("0", "NVIDIA A100-SXM4-40GB", 0.6, 4968, 39936)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "<html>", 'node_load1{gpu="0"} 1\n', "DCGM_FI_DEV_GPU_UTIL 3\n"]
)
def test_a_page_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(BadPageError, match="its metrics"):
        read_page(text)


def test_a_node_of_which_one_gpu_is_silent_is_not_known() -> None:
    silent = Gpu("1", "NVIDIA L4", None, 1, 2)
    assert GpuMeasurements(nodes={"n": (silent, *read_page(page("shared")))}).busy("n") is None


@asynccontextmanager
async def exporters(
    answers: dict[str, str | int], *, port: int | None = 9401
) -> AsyncIterator[Client]:
    """An API server with the exporter on each of these nodes: a page, the status of a refusal, or
    `silence`.
    """
    box: dict[str, Any] = {
        "name": NAME,
        "image": "nvcr.io/nvidia/k8s/dcgm-exporter:3.3.9-3.6.1-ubuntu22.04",
    }
    if port:
        box["ports"] = [{"name": "metrics", "containerPort": port}]
    meta = {"name": NAME, "namespace": NAMESPACE, "uid": "exporters-uid"}
    daemon_set = {"metadata": meta, "spec": {"template": {"spec": {"containers": [box]}}}}
    owners = [{"uid": "exporters-uid", "kind": "DaemonSet", "name": NAME, "apiVersion": "apps/v1"}]
    pods = []
    for node in answers:
        pod = {"name": f"{NAME}-{node}", "namespace": NAMESPACE, "ownerReferences": owners}
        pods.append({"metadata": pod, "spec": {"nodeName": node}})
    node_names = [*answers, "bare"]
    nodes = [{"metadata": {"name": name, "labels": GPU}} for name in node_names]
    lists = {"daemonsets": [daemon_set] if answers else [], "pods": pods, "nodes": nodes}

    async def listed(request: web.Request) -> web.Response:
        items = lists[request.path.rpartition("/")[2]]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def proxied(request: web.Request) -> web.Response:
        assert request.match_info["port"] == str(port or 9400)
        answer = answers[request.match_info["pod"].removeprefix(f"{NAME}-")]
        if answer == "silence":
            await asyncio.sleep(5)
        if isinstance(answer, int):
            return web.json_response(status(answer, "Refused", "no way"), status=answer)
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_get("/apis/apps/v1/daemonsets", listed)
    app.router.add_get("/api/v1/pods", listed)
    app.router.add_get("/api/v1/nodes", listed)
    app.router.add_get(
        f"/api/v1/namespaces/{NAMESPACE}/pods/{{pod}}:{{port}}/proxy/metrics", proxied
    )
    async with serve_app(app) as server:
        config = ClusterConfig(server=f"http://127.0.0.1:{server}")
        async with Client(config, field_manager="test") as client:
            yield client


async def test_each_node_is_measured_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PAGE_SECONDS", 0.2)
    monkeypatch.setattr(measuring, "PAGE_BYTES", 100_000)
    answers: dict[str, str | int] = {
        "good": page("shared"),
        "forbidden": 403,
        "down": 503,
        "silent": "silence",
        "endless": "# x\n" * 50_000,
        "other": "<html>",
    }
    async with exporters(answers) as client:
        measured = await measure(client, await collect(client))
    assert measured.exporters == (f"{NAMESPACE}/{NAME}",)
    assert list(measured.nodes) == ["good"]
    said = {
        "forbidden": "the verb `get` on pods/proxy: no way",
        "down": f"pod {NAMESPACE}/{NAME}-down: no way",
        "silent": "no complete response within 0.2 s",
        "endless": "more than 100000 bytes",
        "other": "its metrics",
        "bare": "no pod of the DCGM exporter runs there",
    }
    assert set(measured.problems) == set(said)
    for node, words in said.items():
        assert words in measured.problems[node]


async def test_without_an_exporter_nothing_is_known() -> None:
    async with exporters({}) as client:
        measured = await measure(client, await collect(client))
    assert measured == GpuMeasurements(problems={"bare": "no DCGM exporter runs in this cluster"})


async def test_a_missing_permission_is_named_with_the_commands_that_grant_it() -> None:
    async with fake_api() as api, Client(api.config(), field_manager="test") as client:
        api.faults = [("GET", refusal(403, "Forbidden"))]
        with pytest.raises(UnreadableError, match=r"(?s)may not .*\n  kubectl create clusterrole"):
            await collect(client)


async def test_the_whole_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ALL_SECONDS", 0.2)
    monkeypatch.setattr(measuring, "AT_ONCE", 1)
    async with exporters({"first": "silence", "second": page("old")}, port=None) as client:
        measured = await measure(client, await collect(client))
    assert not measured.nodes
    for node in ("first", "second"):
        assert "was not queried within 0.2 s" in measured.problems[node]


def test_unreported_memory_is_unknown() -> None:
    lines = status_lines(
        configured(a_node("gpu-c")), GpuMeasurements(nodes={"gpu-c": read_page(page("old"))})
    )
    (row,) = [line for line in lines if line.startswith("gpu-c")]
    assert row.split()[-2:] == ["85%", "UNKNOWN"]


def test_users_of_gpus_are_listed_with_their_idle_time() -> None:
    placed = {
        "phase": "Running",
        "podName": "p",
        "nodeName": "gpu-1",
        "startTime": "2026-11-20T08:00:00Z",
    }
    used = a_session(
        "a", template="cad", status=placed | {"lastActivityTime": "2026-11-20T09:00:00Z"}
    )
    others = [
        a_session("b", status=placed),
        a_session("c", template="cpu", status=placed),
        a_session("d"),
    ]
    cad = a_template("cad", resources={"defaultGPU": 2}, lifecycle={"idleTimeout": "8h"})
    templates = [cad, a_template("cpu", resources={"defaultGPU": 0})]
    lines = user_lines([used, *others], templates, datetime(2026, 11, 20, 10, tzinfo=UTC))
    assert [line.split() for line in lines[2:]] == [
        ["gpu-1", "1", "alice@example.com", "b", "2h", "-"],
        ["gpu-1", "2", "alice@example.com", "a", "2h", "1h"],
    ]
