"""How busy the GPUs are: asks the DCGM exporter's pods, by way of the API server. Reads, and nothing else."""

import asyncio
from collections.abc import Collection
from typing import Any

from vdi.gpu.sharing.dcgm import BadPageError, Gpu, GpuMeasurements, is_exporter, port_of, read_page
from vdi.gpu.sharing.state import DaemonSet, pods_of
from vdi.kube.errors import ApiError, Forbidden, KubeError
from vdi.kube.resource import DAEMON_SETS, PODS
from vdi.kube.transport import Client

Raw = dict[str, Any]

AT_ONCE = 8
PAGE_SECONDS = 3.0
MOST_BYTES = 4 * 2**20
ALL_SECONDS = 20.0
"""In all; nodes that were not asked until then are not known."""


async def measure(client: Client, nodes: Collection[str]) -> GpuMeasurements:
    """What the exporters say of these nodes' GPUs. Whatever goes wrong is a problem of the node, never an error."""
    try:
        found = [DaemonSet(each) for each in await client.list(DAEMON_SETS, into=Raw)]
        exporters = [each for each in found if is_exporter(each)]
        namespaces = sorted({exporter.namespace for exporter in exporters})
        pods = [pod for namespace in namespaces for pod in await client.list(PODS, namespace=namespace, into=Raw)]
    except KubeError as error:
        return GpuMeasurements(problems=dict.fromkeys(nodes, f"the DCGM exporter was not found: {error}"))
    names = tuple(f"{exporter.namespace}/{exporter.name}" for exporter in exporters)
    none = "no pod of the DCGM exporter runs there" if exporters else "no DCGM exporter runs in this cluster"
    problems = dict.fromkeys(nodes, none)
    measured: dict[str, tuple[Gpu, ...]] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(node: str, exporter: DaemonSet, pod: str) -> None:
        problems[node] = f"pod {exporter.namespace}/{pod} was not queried within {ALL_SECONDS:g} s"
        async with gate:
            try:
                measured[node] = await _read(client, exporter, pod)
                del problems[node]
            except (KubeError, BadPageError) as error:
                problems[node] = f"pod {exporter.namespace}/{pod}: {_words(error)}"

    asked = {
        pod["spec"].get("nodeName"): (exporter, pod["metadata"]["name"])
        for exporter in exporters
        for pod in pods_of(exporter.raw, pods)
    }
    try:
        async with asyncio.timeout(ALL_SECONDS):
            await asyncio.gather(*(ask(node, *there) for node, there in asked.items() if node in problems))
    except TimeoutError:
        pass  # said in `problems`
    return GpuMeasurements(names, measured, problems)


async def _read(client: Client, exporter: DaemonSet, pod: str) -> tuple[Gpu, ...]:
    page = await client.page_of_pod(
        exporter.namespace, pod, port_of(exporter), "/metrics", most_bytes=MOST_BYTES, seconds=PAGE_SECONDS
    )
    return read_page(page.decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    if isinstance(error, Forbidden):
        return f"missing permission, the verb `get` on pods/proxy: {error.message}"
    return error.message if isinstance(error, ApiError) else str(error)
