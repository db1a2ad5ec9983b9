"""A third way to a desktop: a session that takes one over which a VDIPool has started before
anybody asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.ways import Object, ThroughOperator, remove, until
from vdi.demo.browser import Login
from vdi.kinds import POOLS, TEMPLATES
from vdi.kube.transport import Client

# Of the pool, and of its template.
NAME = "bench-pool"


class FromPool(ThroughOperator):
    """A VDISession of a template that has a pool."""

    name = "from a pool"

    def __init__(self, client: Client, login: Login) -> None:
        super().__init__(client, NAME, login)

    async def filled(self) -> None:
        """Wait until a started desktop can be taken, and no other is on its way. Raises
        TimeoutError.
        """
        await until(self._client, POOLS, NAME, _is_filled, namespace=None)


@asynccontextmanager
async def a_pool(client: Client, template: str, login: Login) -> AsyncIterator[FromPool]:
    """A pool of one, of that template's desktops without a home, which no pool can have. Raises
    KubeError.
    """
    like = await client.get(TEMPLATES, template, into=Object)
    spec = {**like["spec"], "persistence": {"enabled": False}}
    try:
        await client.create(TEMPLATES, _named(TEMPLATES.kind, spec), into=Object)
        await client.create(
            POOLS, _named(POOLS.kind, {"template": NAME, "replicas": 1}), into=Object
        )
        yield FromPool(client, login)
    finally:
        await remove(client, POOLS, NAME, namespace=None)
        await remove(client, TEMPLATES, NAME, namespace=None)


def _is_filled(pool: Object) -> bool:
    status = pool.get("status", {})
    return (status.get("ready", 0), status.get("starting", 0)) == (1, 0)


def _named(kind: str, spec: Object) -> Object:
    return {
        "apiVersion": TEMPLATES.api_version,
        "kind": kind,
        "metadata": {"name": NAME},
        "spec": spec,
    }
