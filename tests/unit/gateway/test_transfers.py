"""Transfers in the audit: the collector against the desktop image's own agent, and what it makes of
a report.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from support.desktop_key import tokens_of
from support.waiting import eventually
from unit.gateway.api_stage import ALICE, ROOT, RUNNING, ApiStage
from unit.images.image_scripts import load_library, port_of, serve_agent
from vdi.api.session import Role
from vdi.gateway.desktop.transfers import Event, Report, TransferCollector, describe
from vdi.gateway.store.audit import Entry, act_on
from vdi.gateway.store.database import DatabaseUnavailableError

NAME = "alice-desktop"
OWNER = (ALICE.user, Role.OWNER)
UPLOAD = {"event": "file.upload.end", "filename": "plan.pdf", "size_bytes": 7}


@pytest.fixture
def stage() -> ApiStage:
    stage = ApiStage()
    stage.session(NAME, status=RUNNING | {"podName": NAME})
    return stage


@pytest.fixture
def agent(stage: ApiStage) -> Iterator[Any]:
    """The image's agent, where the stage asks for that of the desktop."""
    session = stage.world.session(NAME)
    assert session
    token = tokens_of(NAME, uid=session.metadata.uid).agent
    selkies = sha256(b"selkies").hexdigest()
    with serve_agent(token, transfers=new_transfers(), transfers_digest=selkies) as agent:
        stage.agent_url = f"http://127.0.0.1:{port_of(agent)}"
        yield agent


def new_transfers() -> Any:
    return load_library("agent.transfers").Transfers()


def report(agent: Any, *events: dict[str, Any]) -> None:
    for event in events:
        agent.services.transfers.add(json.dumps(event).encode())


@asynccontextmanager
async def collecting(
    stage: ApiStage, *guests: tuple[str, Role]
) -> AsyncIterator[TransferCollector]:
    """A replica's collector; the owner and these guests have a grant."""
    session = stage.world.session(NAME)
    assert session
    of = session.metadata.uid
    grants = [
        SimpleNamespace(user=user, role=role, session_uid=of) for user, role in (OWNER, *guests)
    ]
    active: Any = SimpleNamespace(
        find=lambda session_uid=of: grants if session_uid == of else [], grants=grants
    )
    agent: Any = stage.agent
    collector = TransferCollector(
        context=stage.context, agent=agent, active=active, audit=stage.audit, pause=0.01
    )
    running = asyncio.create_task(collector.run())
    yield collector
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def written(stage: ApiStage, number: int) -> list[Entry]:
    """The transfers once there are so many, oldest first."""
    found: list[Entry] = []

    async def are_there() -> bool:
        found[:] = await stage.audit.entries(limit=5000, transfers=True)
        return len(found) >= number

    await eventually(are_there, f"{number} transfers", 10)
    assert len(found) == number
    return found[::-1]


async def test_events_appear_once_in_order_for_two_replicas(stage: ApiStage, agent: Any) -> None:
    connect = {"event": "session.connect", "role": "controller"}
    kinds = [
        "clipboard.send",
        "clipboard.receive",
        "file.upload.error",
        "file.download",
        "print.document",
    ]
    async with collecting(stage), collecting(stage):
        report(agent, connect, UPLOAD, *({"event": kind, "size_bytes": 1} for kind in kinds))
        report(
            agent,
            {"event": "capture.demand"},
            {"event": "session.disconnect", "role": "controller"},
        )
        rows = await written(stage, 9)
    expected = [
        "transfers.begin",
        "viewer.connect",
        "files.upload",
        "clipboard.send",
        "clipboard.receive",
    ]
    expected += ["files.upload-error", "files.download", "print.document", "viewer.disconnect"]
    assert [row.action for row in rows] == expected
    assert (rows[2].actor, rows[2].target, rows[2].owner) == (ALICE.user, NAME, ALICE.user)
    assert rows[2].detail == {"path": "plan.pdf", "bytes": "7"}
    assert stage.context.metrics.transfers.labels("files.upload")._value.get() == 1
    assert stage.context.metrics.transfer_bytes.labels("files.upload")._value.get() == 7
    assert await stage.audit.entries(limit=9) == []  # the log of actions has none of them


async def test_gateway_that_was_away_goes_on_where_it_was(
    stage: ApiStage, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.transfers.EVENTS_PER_SECOND", 10_000)
    async with collecting(stage):
        report(agent, UPLOAD)
        await written(stage, 2)
    report(agent, *(UPLOAD | {"filename": str(number)} for number in range(250)))
    async with collecting(stage):
        rows = await written(stage, 252)
    assert [row.detail["path"] for row in rows[2:]] == [str(number) for number in range(250)]


async def test_events_that_the_agent_had_to_drop_leave_a_row(
    stage: ApiStage, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.transfers.MAX_EVENTS", 2)
    report(agent, *[UPLOAD] * 6)
    async with collecting(stage):
        rows = await written(stage, 2)
    assert (rows[0].action, rows[0].detail["count"]) == ("transfers.dropped", "6")
    assert datetime.fromisoformat(rows[0].detail["from"]) <= datetime.fromisoformat(
        rows[0].detail["to"]
    )


async def test_reports_that_waited_for_the_agent_keep_their_time(
    stage: ApiStage, agent: Any
) -> None:
    then = datetime.now(UTC) - timedelta(minutes=5)
    lost = {"event": "audit.dropped", "count": 3, "seconds": 60.0}
    report(agent, *(event | {"ts": then.isoformat()} for event in (UPLOAD, lost)))
    async with collecting(stage):
        _, upload, dropped = await written(stage, 3)
    assert (
        timedelta(0) <= stage.clock.now() - timedelta(minutes=5) - upload.at < timedelta(seconds=30)
    )
    began, ended = (datetime.fromisoformat(dropped.detail[name]) for name in ("from", "to"))
    assert ended - began == timedelta(minutes=1)


async def test_desktop_that_no_longer_reports_leaves_one_row(
    stage: ApiStage, agent: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.agent.POLL_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("agent.transfers.WAIT_SECONDS", 0.05)
    async with collecting(stage), collecting(stage):
        await written(stage, 1)
        began = stage.clock.now()
        stage.agent_url = "http://127.0.0.1:9"  # as from an agent that is stopped, nothing comes
        await eventually(lambda: caplog.text.count("does not respond") == 2, "both know", 10)
        stage.clock.wall += timedelta(minutes=1)
        rows = await written(stage, 2)
    assert (rows[1].action, rows[1].detail["error"]) == (
        "transfers.dropped",
        "the agent does not respond",
    )
    assert datetime.fromisoformat(rows[1].detail["from"]) <= began


async def test_text_and_commands_of_agents_are_transfers(stage: ApiStage) -> None:
    for kind in ("type", "run", "screenshot"):
        session = stage.world.session(NAME)
        assert session
        await stage.audit.record(act_on(session, ALICE.user, f"computer.{kind}", {}))
    rows = await stage.audit.entries(limit=9, transfers=True)
    assert [row.action for row in rows] == ["computer.run", "computer.type"]
    assert len(await stage.audit.entries(limit=9, target=NAME)) == 3
    assert await stage.audit.entries(limit=9) == []


async def test_new_agent_begins_with_a_row(stage: ApiStage, agent: Any) -> None:
    async with collecting(stage):
        await written(stage, 1)
        report(agent, {"event": "session.connect"})
        await written(stage, 2)
        # Killed, and started again.
        agent.services = agent.services._replace(transfers=new_transfers())
        async with collecting(stage):
            rows = await written(stage, 3)
    assert rows[-1].action == "transfers.begin"


async def test_events_wait_for_a_database_that_is_down(
    stage: ApiStage, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.agent.POLL_AGAIN_SECONDS", 0.01)
    add, tries = stage.audit.add_events, []

    async def down_at_first(events: Any) -> set[str]:
        tries.append(events)
        if len(tries) < 3:
            raise DatabaseUnavailableError("down")
        return await add(events)

    monkeypatch.setattr(stage.audit, "add_events", down_at_first)
    async with collecting(stage):
        report(agent, UPLOAD)
        assert len(await written(stage, 2)) == 2


async def test_one_of_several_users_is_not_named_as_the_actor(stage: ApiStage, agent: Any) -> None:
    guests = (("bob@example.com", Role.COLLABORATOR), ("eve@example.com", Role.VIEWER))
    async with collecting(stage, *guests):
        report(agent, UPLOAD, {"event": "session.connect", "role": "viewer"})
        _, upload, connect = await written(stage, 3)
    assert (upload.actor, upload.detail["users"]) == ("", "alice@example.com, bob@example.com")
    assert connect.actor == "eve@example.com"


async def test_desktop_is_read_until_its_last_event_after_access_has_ended(
    stage: ApiStage, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.transfers.WAIT_SECONDS", 0.2)
    async with collecting(stage) as collector:
        await written(stage, 1)
        grants: Any = collector.active
        grants.grants.clear()
        report(agent, {"event": "session.disconnect"})
        await written(stage, 2)

        async def is_left() -> bool:
            return not list(collector._opened())

        await eventually(is_left, "no request waits")


LOG = "0123456789abcdef"
EVENT = {"number": 1, "age": 0, "event": "file.download"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"log": "not hexadecimal!"},
        {"log": LOG + "\n"},
        {"events": [EVENT] * 101},
        {"events": [EVENT | {"number": 0}]},
        {"events": [EVENT | {"number": 1 << 60}]},
        {"events": [EVENT | {"age": -1}]},
        {"events": [EVENT | {"filename": "x" * 513}]},
        {"events": [EVENT | {"size_bytes": "many"}]},
    ],
)
def test_report_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    body = {"log": LOG, "events": [EVENT]}
    assert msgspec.convert(body, Report)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body | wrong, Report)


def test_details_are_printable_and_names_may_be_hashed() -> None:
    event = Event(
        1,
        0,
        "file.upload.error",
        "pay\u202eroll\n.xls",
        "text/\x1b[31m",
        "pay.xls exists",
        size_bytes=3,
    )
    plain = {
        "path": "pay\\u202eroll\\u000a.xls",
        "bytes": "3",
        "type": "text/\\u001b[31m",
        "error": "pay.xls exists",
    }
    assert describe(event, is_hashed=False) == plain
    hashed = describe(event, is_hashed=True)
    assert hashed["path"] == f"sha256:{sha256(event.filename.encode()).hexdigest()}"
    assert "error" not in hashed


async def test_transfers_are_for_auditors_and_a_users_own_file(stage: ApiStage, agent: Any) -> None:
    async with collecting(stage):
        report(agent, UPLOAD | {"filename": "=cmd"})
        await written(stage, 2)
    root, alice = await stage.program(ROOT), await stage.program()
    listed: httpx.Response = await root.get(
        "/api/v1/admin/audit", params={"action": "files.upload"}
    )
    (item,) = listed.json()["items"]
    assert datetime.fromisoformat(item["at"]) <= stage.clock.now()
    assert (await root.get("/api/v1/admin/audit?transfers=true&owner=bob@example.com")).json()[
        "items"
    ] == []
    assert (await root.get("/api/v1/admin/audit?transfers=true&action=login.begin")).json()[
        "items"
    ] == []
    assert (await alice.get("/api/v1/admin/audit?transfers=true")).status_code == 403
    own = (await alice.get("/api/v1/export?what=transfers")).text.splitlines()
    assert len(own) == 3 and "files.upload" in own[2]
