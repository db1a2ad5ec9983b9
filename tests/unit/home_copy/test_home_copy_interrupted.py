"""Ctrl-C while the API server makes a claim: what it has made is known, and taken back."""

import asyncio
from io import BytesIO
from typing import Any, cast

import msgspec
import pytest

from support.builders import a_session, a_template
from support.clock import FakeClock
from support.waiting import PATIENCE
from vdi.home_copy.archive import import_home
from vdi.home_copy.pod import CopyRun
from vdi.kube.resource import CLAIMS, Resource
from vdi.kube.transport import Client
from vdi.session.homes import NO_HOMES, resolve_home
from vdi.session.naming import Identity

ALICE = "alice@example.com"
CAD = a_template("cad", resources={"defaultGPU": 0})


class SlowServer:
    """Has made the claim, and its answer is on its way."""

    def __init__(self) -> None:
        self.made = asyncio.Event()
        self.answers = asyncio.Event()
        self.deleted: list[tuple[str, str]] = []

    async def create(self, resource: Resource, body: dict[str, Any], *, into: Any, **_: Any) -> Any:
        if resource is CLAIMS:
            self.made.set()
            await self.answers.wait()
        metadata = {**body["metadata"], "uid": f"uid-of-{body['metadata']['name']}"}
        return msgspec.convert({**body, "metadata": metadata}, into)

    async def list(self, _: Resource, **__: Any) -> list[Any]:
        return []

    async def delete(self, resource: Resource, name: str, *, uid: str, **_: Any) -> None:
        self.deleted.append((resource.plural, name if uid == f"uid-of-{name}" else uid))


async def test_claim_created_during_an_interrupt_is_deleted() -> None:
    home = resolve_home(a_session(user=ALICE, template="cad"), CAD, NO_HOMES)
    assert home
    server = SlowServer()
    run = CopyRun(
        cast(Client, server), FakeClock(), ["kubectl"], "vdi", lambda _: None, lambda _: None
    )
    identity = Identity(run.namespace, name="", uid="", user=ALICE, template="cad")
    command = asyncio.create_task(import_home(run, identity, home, CAD, BytesIO()))
    await asyncio.wait_for(server.made.wait(), PATIENCE)
    command.cancel()
    await asyncio.sleep(0)
    server.answers.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(command, PATIENCE)
    kinds = [kind for kind, _ in server.deleted]
    assert kinds == ["persistentvolumeclaims", "pods"]
