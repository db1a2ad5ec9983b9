"""A control plane of its own for each run: a fresh etcd, the real API server, scheduler and garbage
collector, and kwok in the place of the nodes' kubelets. Everything listens on 127.0.0.1, on free
ports, without root.

The development cluster (`vdi cluster up`) is not used: a measurement needs an empty etcd, an audit
log of one user, clients that are not throttled and a scheduler that does not wait for volumes.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import shutil
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench import configs, objects
from bench.processes import Processes
from vdi.devcluster.layout import free_ports
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
OPERATOR_USER = "system:serviceaccount:vdi-system:vdi-operator"
OPERATOR_GROUP = "system:serviceaccounts:vdi-system"
START_SECONDS = 90.0


class Cluster:
    """One control plane; an async context manager. Its folder stays when it ended with an error."""

    def __init__(
        self, binaries: Mapping[str, Path], crds: Iterable[objects.Object], sessions: int
    ) -> None:
        self._binaries, self._crds = binaries, crds
        self._nodes = math.ceil((sessions + 1) / objects.GPUS_PER_NODE)
        self.folder = Path(tempfile.mkdtemp(prefix="vdi-bench-"))
        self.processes = Processes(self.folder)
        self._etcd_port, self._peer_port, self._port, self._kwok_port = free_ports(4)
        self.url = f"https://127.0.0.1:{self._port}"
        # The API server makes it: its certificate and the CA's.
        self.ca = self.folder / "certs" / "apiserver.crt"
        self.audit_log = self.folder / "audit.log"
        self.admin_token, self.operator_token = secrets.token_hex(16), secrets.token_hex(16)
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> Cluster:
        try:
            self._start_etcd()
            self._start_api_server()
            await self._connect()
            await self._create_basics()
            self._start_clients()
            await self._ready()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if hasattr(self, "http"):
            await self.http.close()
        self.processes.stop(
            [name for name in self.processes.running if name not in ("etcd", "apiserver")]
        )
        self.processes.stop(["apiserver"])
        self.processes.stop(["etcd"])
        if not isinstance(error, Exception):  # whoever interrupts it has no use for the logs
            shutil.rmtree(self.folder)

    def client(self, token: str) -> aiohttp.ClientSession:
        """A client of the API server without a limit on connections."""
        connector = aiohttp.TCPConnector(
            limit=0, ssl=ssl.create_default_context(cafile=str(self.ca))
        )
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=120)
        return aiohttp.ClientSession(
            self.url, connector=connector, headers=headers, timeout=timeout
        )

    def kubeconfig(self, user: str, token: str) -> Path:
        """A kubeconfig in the run's folder."""
        return self._write(
            f"{user}.kubeconfig", configs.kubeconfig(self.url, self.ca.read_bytes(), user, token)
        )

    async def post(self, path: str, body: objects.Object) -> None:
        """Create an object as the administrator. Raises RuntimeError when the API server
        refuses.
        """
        async with self.http.post(path, json=body) as response:
            if response.status >= 300:
                raise RuntimeError(
                    f"POST {path}: {response.status} {(await response.text())[:400]}"
                )

    def _write(self, name: str, content: str | objects.Object) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def _start_etcd(self) -> None:
        url, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self.processes.start(
            "etcd",
            [
                self._binaries["etcd"],
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--log-level=error",
                "--unsafe-no-fsync",  # the disk's own noise is larger than what is compared here
            ],
        )

    def _start_api_server(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        ).decode()
        account_key = self._write("service-accounts.key", pem)
        tokens = self._write(
            "tokens.csv",
            f'{self.admin_token},admin,admin,"system:masters"\n'
            # a service account's groups, so that priority and fairness treats it as it would a real
            # operator
            f'{self.operator_token},{OPERATOR_USER},operator,"system:serviceaccounts,{OPERATOR_GROUP}"\n',
        )
        self.processes.start(
            "apiserver",
            [
                self._binaries["kube-apiserver"],
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port}",
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                f"--cert-dir={self.ca.parent}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={account_key}",
                f"--service-account-key-file={account_key}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.43.0.0/16",
                # the controllers that take these admission plugins' marks off again do not run here
                "--disable-admission-plugins=TaintNodesByCondition,StorageObjectInUseProtection",
                (
                    f"--audit-policy-file={self._write('audit.json', configs.audit_policy(OPERATOR_USER))}"
                ),
                f"--audit-log-path={self.audit_log}",
                "--audit-log-mode=batch",
                "--audit-log-batch-buffer-size=200000",
                "--audit-log-batch-max-size=500",
                "--audit-log-batch-max-wait=1s",
            ],
        )

    def _start_clients(self) -> None:
        admin = self.kubeconfig("admin", self.admin_token)
        scheduler = self._write("scheduler.json", configs.scheduler(str(admin)))
        kwok = self._write("kwok.yaml", "\n---\n".join(map(json.dumps, configs.kwok())))
        alone = ["--secure-port=0", "--authentication-skip-lookup"]
        self.processes.start(
            "scheduler", [self._binaries["kube-scheduler"], f"--config={scheduler}", *alone]
        )
        self.processes.start(
            "controllers",
            [
                self._binaries["kube-controller-manager"],
                f"--kubeconfig={admin}",
                "--leader-elect=false",
                "--controllers=garbage-collector-controller,serviceaccount-controller",
                f"--kube-api-qps={configs.UNLIMITED}",
                f"--kube-api-burst={configs.UNLIMITED}",
                *alone,
            ],
        )
        self.processes.start(
            "kwok",
            [
                self._binaries["kwok"],
                f"--kubeconfig={admin}",
                f"--config={kwok}",
                "--manage-all-nodes=false",
                "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                "--node-ip=127.0.0.1",
                "--node-lease-duration-seconds=1200",
                f"--server-address=127.0.0.1:{self._kwok_port}",
            ],
            {"HOME": str(self.folder)},
        )

    async def _connect(self) -> None:
        async def certified() -> bool:
            return self.ca.exists()

        async def ready() -> bool:
            try:
                async with self.http.get("/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await self._until(certified, "the API server's certificate")
        self.http = self.client(self.admin_token)
        await self._until(ready, "the API server to be ready")

    async def _create_basics(self) -> None:
        for crd in (*self._crds, objects.ingress_route_crd()):
            await self.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        await self.post("/api/v1/namespaces", {"metadata": {"name": objects.NAMESPACE}})
        for key in (HOST_KEY, DESKTOP_KEY):
            await self.post(f"{objects.CORE}/secrets", {"metadata": {"name": key}})
        await self.post("/apis/storage.k8s.io/v1/storageclasses", objects.storage_class())
        bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        await self.post(bindings, objects.operators_may_do_all(OPERATOR_GROUP))
        for number in range(self._nodes):
            await self.post("/api/v1/nodes", objects.fake_node(number))

    async def _ready(self) -> None:
        def nodes_ready(nodes: Any) -> bool:
            conditions = [
                condition
                for node in nodes["items"]
                for condition in node["status"].get("conditions", ())
            ]
            ready = [
                condition
                for condition in conditions
                if condition["type"] == "Ready" and condition["status"] == "True"
            ]
            return len(ready) == self._nodes

        await self._until_found(objects.SESSIONS, "the API of sessions")
        await self._until_found(objects.ROUTES, "the API of routes")
        await self._until_found(
            f"{objects.CORE}/serviceaccounts/default", "the default service account"
        )
        await self._until_found(
            "/api/v1/nodes", f"{self._nodes} fake nodes to be ready", nodes_ready
        )
        await self._until_found(objects.TEMPLATES, "the API of templates")
        await self.post(objects.TEMPLATES, objects.template())

    async def _until_found(
        self, path: str, what: str, accepts: Callable[[Any], bool] = bool
    ) -> None:
        async def found() -> bool:
            async with self.http.get(path) as response:
                return response.status == 200 and accepts(await response.json())

        await self._until(found, what)

    async def _until(self, reached: Callable[[], Awaitable[bool]], what: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not await reached():
            for name, process in self.processes.running.items():
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{name} ended while waiting for {what}: {self.processes.log_tail(name)}"
                    )
            if time.monotonic() > end:
                raise TimeoutError(f"not within {START_SECONDS:g} s: {what}; logs in {self.folder}")
            await asyncio.sleep(0.1)
