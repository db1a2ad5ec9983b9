"""Actions at a real API server: no edit is lost among several writers, none reaches a later
session.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.gateway_stage import settings_of
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.api.session import GuestRole
from vdi.gateway.app import Gateway, open_gateway
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import TOKEN_ID, User
from vdi.kinds import SESSIONS
from vdi.kube.resource import Resource
from vdi.session.actions import AnswerAccess, Extend, RequestAccess, Share, Suspend, Unshare

ALICE, BOB, EVE = (User(f"{name}@example.com") for name in ("alice", "bob", "eve"))
ROOT = User("root@example.com", admin=True)


@asynccontextmanager
async def a_replica(stage: Stage, folder: Path) -> AsyncIterator[Gateway]:
    """A gateway without listeners."""
    async with open_gateway(stage.api.config, settings_of(stage, folder)) as gateway:
        await eventually(lambda: gateway.health.begun, "the gateway has begun")
        yield gateway


async def test_concurrent_shares_are_all_kept(stage: Stage, tmp_path: Path) -> None:
    template = await stage.template()
    await stage.session("mine", template, access=[{"user": "old@example.com", "role": "viewer"}])
    guests = [f"guest{number}@example.com" for number in range(8)]
    stop = asyncio.Event()

    async def write_all_the_time() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await stage.patch(
                SESSIONS, "mine", {"status": {"message": str(number)}}, subresource="status"
            )
            await asyncio.sleep(0.01)
        return number

    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(a_replica(stage, tmp_path)) for _ in range(2)]
        writer = asyncio.create_task(write_all_the_time())
        ends = datetime.now(UTC) + timedelta(hours=1)

        async def share(number: int, guest: str) -> None:
            """A person tries again when asked to."""
            for _ in range(20):
                try:
                    await replicas[number % 2].services.actions.act(
                        ALICE, "mine", Share(guest, GuestRole.VIEWER, ends)
                    )
                    return
                except ActionDenied as refused:
                    assert refused.code == "Conflict"

        await asyncio.gather(*(share(number, guest) for number, guest in enumerate(guests)))
        await replicas[0].services.actions.act(ALICE, "mine", Unshare("old@example.com"))
        stop.set()
        assert await writer > 0
    session = await stage.get(SESSIONS, "mine")
    assert session
    assert {one["user"] for one in session["spec"]["access"]} == set(guests)


async def test_access_is_asked_for_allowed_and_ends(stage: Stage, tmp_path: Path) -> None:
    """Two replicas, and the API server's own rules for the fields."""
    await stage.session("mine", await stage.template())
    async with a_replica(stage, tmp_path) as first, a_replica(stage, tmp_path) as second:
        ask = [
            one.services.actions.act(ROOT, "mine", RequestAccess(GuestRole.COLLABORATOR, "1h"))
            for one in (first, second)
        ]
        results = await asyncio.gather(*ask, return_exceptions=True)
        (asked,) = [one for one in results if not isinstance(one, BaseException)]
        (refused,) = [one for one in results if isinstance(one, ActionDenied)]
        assert (refused.code, asked.spec.access) == ("Conflict", ())
        request = asked.spec.access_request
        assert request
        with pytest.raises(ActionDenied, match="Only alice"):
            await second.services.actions.act(
                ROOT, "mine", AnswerAccess(request.expires, allow=True)
            )
        allowed = await second.services.actions.act(
            ALICE, "mine", AnswerAccess(request.expires, allow=True)
        )
        (access,) = allowed.spec.access
        assert (access.user, access.role, allowed.spec.access_request) == (
            ROOT.email,
            "collaborator",
            None,
        )
        over = {"user": BOB.email, "role": "viewer", "expires": "2026-01-01T00:00:00Z"}
        await stage.patch(
            SESSIONS, "mine", {"spec": {"access": [{"user": ROOT.email, "role": "viewer"}, over]}}
        )

        async def rows() -> list[str]:
            found = [
                *await first.services.audit.entries(limit=50),
                *await second.services.audit.entries(limit=50),
            ]
            return [row.detail["user"] for row in found if row.actor == "vdi-gateway"]

        await eventually(rows, "the end in the audit")
        session = await stage.get(SESSIONS, "mine")
        assert session and [one["user"] for one in session["spec"]["access"]] == [ROOT.email]
        assert set(await rows()) == {BOB.email}


async def test_takeover_holds_at_every_replica_at_once(stage: Stage, tmp_path: Path) -> None:
    """However late a replica's watch is: the API server has it."""
    await stage.session("mine", await stage.template(agents={"enabled": True}))
    await stage.patch(SESSIONS, "mine", {"status": {"phase": "Running"}}, subresource="status")
    program = replace(ALICE, login_id=f"{TOKEN_ID}nightly")
    async with a_replica(stage, tmp_path) as first, a_replica(stage, tmp_path) as second:
        for gateway in (first, second):
            cluster = gateway.context.cluster
            await eventually(partial(cluster.session, "mine"), "the session is known")
        for taker, other in ((first, second), (second, first)) * 5:
            await taker.services.computer.switch(ALICE.actor, "mine", human=True)
            with pytest.raises(ActionDenied) as refused:
                await other.services.actions.end(program, "mine")
            assert refused.value.code == "HumanInControl"
            await other.services.computer.switch(ALICE.actor, "mine", human=False)
        await taker.services.actions.end(program, "mine")


async def test_action_does_not_reach_a_recreated_session(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ended and begun again between the question whether Alice may and the write."""
    template = await stage.template()
    await stage.session("mine", template)
    async with a_replica(stage, tmp_path) as gateway:
        asked, this_task = gateway.context.client.get, asyncio.current_task()

        async def get(kind: Resource, name: str, **more: Any) -> Any:
            session = await asked(kind, name, **more)
            if asyncio.current_task() is not this_task:
                return session  # the history asks too, for the sessions that it has lost
            await stage.delete(SESSIONS, "mine")
            await stage.session("mine", template, user=EVE.email)
            return session

        actions: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: gateway.services.actions.act(ALICE, "mine", Suspend()),
            lambda: gateway.services.actions.act(
                ALICE, "mine", Share(BOB.email, GuestRole.VIEWER, None)
            ),
            lambda: gateway.services.actions.act(ALICE, "mine", Extend("10h")),
        )
        for action in actions:
            await stage.delete(SESSIONS, "mine")
            await stage.session("mine", template)
            monkeypatch.setattr(gateway.context.client, "get", get)
            with pytest.raises(ActionDenied) as refused:
                await action()
            monkeypatch.setattr(gateway.context.client, "get", asked)
            assert refused.value.code == "Conflict"
    session = await stage.get(SESSIONS, "mine")
    assert session
    assert session["spec"]["user"] == EVE.email
    assert not session["spec"].get("suspended")
    assert not session["spec"].get("access")
    assert session["spec"]["timeout"] == "8h"
