"""The control plane's own processes: killed, for the supervisor to bring them back, or stopped for
a while; and etcd's memory cut short.
"""

import asyncio
import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from vdi.devcluster import cluster
from vdi.devcluster.layout import layout_of


@dataclass
class Machine:
    """One cluster's processes."""

    name: str

    def kill(self, component: str) -> None:
        """SIGKILL to `etcd` or `kube-apiserver`."""
        if pid := self._pid(component):
            os.kill(pid, signal.SIGKILL)

    @contextmanager
    def stopped(self, component: str) -> Iterator[None]:
        """It does nothing while the context lasts."""
        pid = self._pid(component)
        assert pid, f"{component} does not run"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _pid(self, component: str) -> int | None:
        return {one.name: one.pid for one in cluster.status(self.name).components}[component]

    async def compact(self) -> int:
        """Have etcd forget all versions but the present one; gives its number."""
        layout = layout_of(self.name)
        settings = layout.load()
        assert settings
        context = ssl.create_default_context(cafile=str(layout.pki / "etcd-ca.crt"))
        context.load_cert_chain(
            layout.pki / "apiserver-etcd.crt", layout.pki / "apiserver-etcd.key"
        )
        base = f"https://127.0.0.1:{settings.etcd_port}/v3"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            async with http.post(f"{base}/maintenance/status", json={}) as answer:
                revision = int((await answer.json())["header"]["revision"])
            async with http.post(
                f"{base}/kv/compaction", json={"revision": revision, "physical": True}
            ) as answer:
                assert answer.status == 200, await answer.text()
        return revision

    async def is_back(self) -> bool:
        """Whether all components run again."""
        status = await asyncio.to_thread(cluster.status, self.name)
        return status.state == "running"
