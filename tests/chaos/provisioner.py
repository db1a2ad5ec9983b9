"""Plays the storage provisioner: a pending claim gets a volume at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from vdi.cluster.objects import PersistentVolumeClaim
from vdi.kube.errors import AlreadyExists, KubeError, NotFound
from vdi.kube.resource import CLAIMS, VOLUMES, Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector

CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
# The one that templates name when they name none.
CLASS = "local-path"


class Provisioner:
    """Makes volumes for the claims of one namespace; its volumes go at the end."""

    def __init__(self, api: Client, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._claims: Store[PersistentVolumeClaim] = Store()
        self._tasks: set[asyncio.Task[None]] = set()
        self._made: set[str] = set()
        self._claims.listen(self._changed)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS},
            "provisioner": "vdi.test/provisioner",
            "reclaimPolicy": "Retain",
        }
        with suppress(AlreadyExists):
            await self._api.create(CLASSES, body, into=msgspec.Raw)
        reflector = Reflector(
            self._api, CLAIMS, PersistentVolumeClaim, self._claims, namespace=self._namespace
        )
        reflecting = asyncio.create_task(reflector.run())
        try:
            yield
            assert not reflecting.done(), reflecting.exception()
        finally:
            for task in (reflecting, *self._tasks):
                task.cancel()
            await asyncio.gather(reflecting, *self._tasks, return_exceptions=True)
            for name in self._made:
                with suppress(KubeError):
                    await self._api.delete(VOLUMES, name, into=dict)

    def _changed(
        self, _old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None
    ) -> None:
        if new is None or new.status.phase == "Bound":
            return
        name = f"chaos-{new.metadata.uid}"
        if name not in self._made:
            self._made.add(name)
            task = asyncio.create_task(self._provide(name, new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _provide(self, name: str, claim: PersistentVolumeClaim) -> None:
        meta = claim.metadata
        owner = {
            "kind": "PersistentVolumeClaim",
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        }
        spec: dict[str, Any] = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "claimRef": owner,
            "hostPath": {"path": f"/nowhere/{name}"},
        }
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": spec,
        }
        while True:
            try:
                await self._api.create(VOLUMES, body, into=msgspec.Raw)
                return
            except (AlreadyExists, NotFound):
                return
            except KubeError:  # the API server is being restarted
                await asyncio.sleep(0.5)
