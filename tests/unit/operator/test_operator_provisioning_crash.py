"""The operator killed at each write of the ProvisioningRequests: the next one leaves one for each waiting session.

The API server is a dictionary; tests/cluster has the same with a real one, real processes and SIGKILL.
"""

from typing import Any

import msgspec
import pytest

from unit.operator.test_operator_placeholders import FakeServer, PlaceholderWorld
from vdi.kube.errors import AlreadyExists, ConnectionFailed, NotFound
from vdi.kube.resource import Resource
from vdi.operator.kinds import PROVISIONING_REQUESTS
from vdi.operator.placeholders import PLACEHOLDERS
from vdi.session.autoscaling import AutoscalingMode
from vdi.session.provisioning import PodTemplate, ProvisioningRequest


class KeptServer(FakeServer):
    """Outlives its operators; the line to it breaks at one write, before or after that was done."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.break_at, self.after = 0, False
        self.was_cut = False

    async def create(self, _resource: object, body: dict[str, Any], **given: object) -> msgspec.Raw:
        key = _plural(_resource), body["metadata"]["name"]
        cut = self._is_cut()
        if cut and not self.after:
            raise _lost(key[1])
        if key in self.kept:
            raise AlreadyExists(409, "AlreadyExists", key[1])
        raw = await super().create(_resource, body, **given)
        self.kept[key] = msgspec.json.decode(raw)
        if cut:
            raise _lost(key[1])
        return raw

    async def delete(self, _resource: object, name: str, **_: object) -> None:
        cut = self._is_cut()
        if cut and not self.after:
            raise _lost(name)
        if self.kept.pop((_plural(_resource), name), None) is None:
            raise NotFound(404, "NotFound", name)
        if cut:
            raise _lost(name)

    def names(self, resource: Resource) -> list[str]:
        return sorted(name for plural, name in self.kept if plural == resource.plural)

    def _is_cut(self) -> bool:
        if self.was_cut:
            raise _lost("anything: this operator is dead")
        self.break_at -= 1
        self.was_cut = self.break_at == 0
        return self.was_cut


def _plural(resource: object) -> str:
    assert isinstance(resource, Resource)
    return resource.plural


def _lost(what: str) -> ConnectionFailed:
    return ConnectionFailed("https://127.0.0.1", what, "the line was cut")


def next_operator(server: KeptServer, waiting: int) -> PlaceholderWorld:
    """One that has just started: its caches have what the API server has, and so many sessions wait."""
    world = PlaceholderWorld(mode=AutoscalingMode.PROVISIONING_REQUEST, server=server)
    world.fill(1)
    for (plural, _), body in server.kept.items():
        if plural == PROVISIONING_REQUESTS.plural:
            world.caches.provisioning_requests.observe(msgspec.convert(body, ProvisioningRequest))
        else:
            world.caches.pod_templates.observe(msgspec.convert(body, PodTemplate))
    assert all(world.request(world.session(f"w{number}")) for number in range(waiting))
    return world


async def run_once(server: KeptServer, waiting: int) -> None:
    await next_operator(server, waiting).placeholders.reconcile(PLACEHOLDERS)


@pytest.mark.parametrize("after", [False, True])
async def test_a_kill_at_any_write_leaves_one_request_for_each_session(after: bool) -> None:
    for write in range(1, 10):
        server = KeptServer()
        cuts = 0
        for waiting in (2, 1, 0):
            server.break_at, server.after, server.was_cut = write, after, False
            try:
                await run_once(server, waiting)
            except ConnectionFailed:
                cuts += 1
            server.break_at, server.was_cut = 0, False
            await run_once(server, waiting)
            assert len(server.names(PROVISIONING_REQUESTS)) == waiting
            assert len(server.kept) == waiting + (waiting > 0), "and one PodTemplate while any is left"
            before = dict(server.kept)
            await run_once(server, waiting)
            assert server.kept == before, "nothing is made again"
        if not cuts:
            assert write == 4, "two sessions: a PodTemplate and two requests"
            return
    raise AssertionError("always cut")
