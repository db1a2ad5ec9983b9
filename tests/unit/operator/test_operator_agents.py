"""Polls of agents, checks of their answers, and notices. Over real HTTP to an agent of our own."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from support.waiting import PATIENCE
from support.web_server import serve_app
from unit.operator.operator_world import NAMESPACE, START, OperatorWorld
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Pod
from vdi.operator.agents import AGENTLESS_SPREAD, FIRST_POLL_SECONDS, Agents
from vdi.session.alerts import Notice
from vdi.session.children import Secret

KEY = (NAMESPACE, "alice")


class Agent:
    """The agent of one desktop."""

    def __init__(self) -> None:
        self.answer: Any = {"idleSeconds": 0.0, "viewers": 1, "connectedSeconds": None}
        self.status = 200
        self.asked = 0
        self.notices: list[dict[str, Any]] = []

    async def activity(self, request: web.Request) -> web.Response:
        self.asked += 1
        if request.headers.get("Authorization") != "Bearer t0ken":
            return web.Response(status=401)
        text = (
            self.answer
            if isinstance(self.answer, str)
            else msgspec.json.encode(self.answer).decode()
        )
        return web.Response(status=self.status, text=text, headers={"Location": "/elsewhere"})

    async def notice(self, request: web.Request) -> web.Response:
        if self.status == 200:
            self.notices.append(await request.json())
        return web.Response(status=self.status)


class ActivityWorld(OperatorWorld):
    """One running session in the caches, and its agent."""

    def __init__(self, agent: Agent, port: int) -> None:
        super().__init__(agent_port=port)
        self.agent = agent
        self.woken, self.polls, self.deliveries = (
            self.new_controller(name) for name in ("session", "ask", "deliver")
        )
        self.agents = Agents(
            self.cluster,
            self.recorder,
            polls=self.polls,
            enqueue_notice=self.deliveries.enqueue,
            enqueue_session=self.woken.enqueue,
        )

    def session(
        self, *, idle: str | None = "1h", phase: str = "Running", **status: Any
    ) -> VDISession:
        spec = {"idleTimeout": idle} if idle else {}
        return self.put_session(
            status={"phase": phase, "podName": "alice"} | status, template="t", **spec
        )

    def pod(self, ip: str = "127.0.0.1") -> Pod:
        metadata = {"uid": "uid-pod", "creationTimestamp": "2026-11-20T08:00:00Z"}
        status = {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}
        return self.put(self.caches.pods, Pod, "alice", "alice", metadata=metadata, status=status)

    def secret(self) -> None:
        data = {"agentToken": b64encode(b"t0ken").decode(), "password": "cHc="}
        self.put(self.caches.secrets, Secret, "alice-auth", data=data)

    async def poll(self) -> float | None:
        return (await self.agents.poll(KEY)).requeue_after

    def was_woken(self) -> bool:
        woken, self.woken.queue._ready = (
            bool(len(self.woken.queue)),
            type(self.woken.queue._ready)(),
        )
        self.woken.queue._dirty.clear()
        return woken


@pytest.fixture
async def world() -> AsyncIterator[ActivityWorld]:
    agent = Agent()
    app = web.Application()
    app.add_routes([web.get("/activity", agent.activity), web.post("/notice", agent.notice)])
    async with serve_app(app) as port:
        yield ActivityWorld(agent, port)


@pytest.fixture
def running(world: ActivityWorld) -> ActivityWorld:
    world.session()
    world.pod()
    world.secret()
    return world


async def test_used_desktop_is_polled_once_a_minute(running: ActivityWorld) -> None:
    running.clock.wall = START + timedelta(minutes=10)
    running.agent.answer = {"idleSeconds": 60.0, "viewers": 2, "connectedSeconds": 120.0}
    assert await running.poll() == 60.0
    activity = running.agents.report("uid-alice")
    assert activity and activity.last_input == START + timedelta(minutes=9)
    assert activity.last_connect == START + timedelta(minutes=8)
    assert not running.was_woken()


async def test_session_is_woken_by_a_due_warning_and_by_input(running: ActivityWorld) -> None:
    running.clock.wall = START + timedelta(minutes=55)
    running.agent.answer["idleSeconds"] = 55 * 60.0
    assert await running.poll() == 5.0
    assert running.was_woken()
    condition = {
        "type": "Idle",
        "status": "True",
        "reason": "Idle",
        "lastTransitionTime": "2026-11-20T08:55:00Z",
    }
    running.session(conditions=[condition])
    running.clock.wall = START + timedelta(minutes=59, seconds=58)
    running.agent.answer["idleSeconds"] = 59 * 60 + 58.0
    assert await running.poll() == 2.0
    assert running.was_woken()
    running.agent.answer["idleSeconds"] = 1.0
    assert await running.poll() == 60.0
    assert running.was_woken()


async def test_work_of_an_agent_keeps_the_desktop(running: ActivityWorld) -> None:
    running.clock.wall = START + timedelta(minutes=58)
    running.agent.answer |= {"idleSeconds": 58 * 60.0, "workSeconds": 120.0}
    assert await running.poll() == 60.0
    assert not running.was_woken()
    running.clock.wall += timedelta(seconds=60.4)
    running.agent.answer["workSeconds"] = 180.0
    await running.poll()
    activity = running.agents.report("uid-alice")
    assert activity and activity.last_work == START + timedelta(minutes=56)
    running.clock.wall = START + timedelta(minutes=61)
    running.agent.answer["workSeconds"] = 300.0
    assert await running.poll() == 5.0
    assert running.was_woken()


async def test_a_delay_on_the_way_is_no_input(running: ActivityWorld) -> None:
    await running.poll()
    running.clock.wall = START + timedelta(seconds=60.4)
    running.agent.answer["idleSeconds"] = 60.0
    await running.poll()
    activity = running.agents.report("uid-alice")
    assert activity and activity.last_input == START


GRAPHICS = {
    "renderer": "Software", "device": "", "reason": "GraphicsCapabilityMissing", "message": "lacks graphics",
    "encoder": "nvenc", "hardwareEncoder": True, "encoderMessage": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "other", [{}, {"renderer": "Zink", "device": "zink", "reason": "", "message": ""}]
)
async def test_desktop_without_a_timeout_reports_its_graphics_once(
    running: ActivityWorld, other: dict[str, str]
) -> None:
    graphics = GRAPHICS | other
    running.session(idle=None)
    running.agent.answer["graphics"] = graphics
    assert await running.poll() == 60.0
    assert running.was_woken()
    activity = running.agents.report("uid-alice")
    assert activity is not None and activity.graphics is not None
    assert msgspec.to_builtins(activity.graphics) == {
        name: value for name, value in graphics.items() if value != ""
    }
    running.session(idle=None, graphics=graphics)
    assert await running.poll() == 60.0
    assert not running.was_woken()


async def test_image_without_an_agent_is_polled_a_few_times(running: ActivityWorld) -> None:
    running.session(idle=None, readyTime="2026-11-20T08:00:00Z")
    running.agent.status = 503
    pauses = []
    while pause := await running.poll():
        pauses.append(pause)
        running.clock.wall += timedelta(seconds=pause)
    assert pauses == [5.0, 10.0]
    assert running.said == []
    running.session(idle=None, graphics=GRAPHICS)
    assert [await running.poll() for _ in range(4)] == [60.0, 120.0, 240.0, 300.0]
    assert running.said == []


async def test_agent_that_has_answered_once_is_polled_for_ever(running: ActivityWorld) -> None:
    """One that reports no graphics, too: the status says when its desktop was last in use."""
    running.session(idle=None, readyTime="2026-11-20T08:00:00Z")
    assert await running.poll() == 60.0
    assert running.was_woken(), "the first answer is published"
    activity = "2026-11-20T08:00:00Z"
    running.session(idle=None, readyTime="2026-11-20T08:00:00Z", lastActivityTime=activity)
    assert await running.poll() == 60.0
    assert not running.was_woken()
    running.clock.wall += timedelta(hours=1)
    running.agent.status = 503
    assert [await running.poll() for _ in range(2)] == [60.0, 120.0]


async def test_first_poll_waits_unless_the_desktop_is_recorded(world: ActivityWorld) -> None:
    world.session(phase="Creating")
    world.session()
    assert not len(world.polls.queue)
    assert world.polls.queue._due[KEY] == world.clock.monotonic() + FIRST_POLL_SECONDS
    world.session(recording=STARTING)
    assert len(world.polls.queue) == 1


@pytest.mark.parametrize("is_template_first", [True, False])
async def test_new_process_does_not_poll_missing_agents_at_once(
    world: ActivityWorld, is_template_first: bool
) -> None:
    def list_template() -> None:
        world.put(
            world.caches.templates,
            VDITemplate,
            "t",
            metadata={"namespace": ""},
            spec={"image": "i"},
        )

    world.clock.wall = START + timedelta(minutes=5)
    if is_template_first:
        list_template()
    world.session(idle=None, readyTime="2026-11-20T08:00:00Z")
    if not is_template_first:
        list_template()
    assert not len(world.polls.queue)
    assert world.polls.queue._due[KEY] - world.clock.monotonic() <= AGENTLESS_SPREAD
    world.put_session(
        "bob", status={"phase": "Running", "readyTime": "2026-11-20T08:04:55Z"}, template="t"
    )
    world.put_session("carol", status={"phase": "Running"}, template="t", idleTimeout="1h")
    world.put_session("dave", status={"phase": "Running", "graphics": GRAPHICS}, template="t")
    activity = {"lastActivityTime": "2026-11-20T08:00:00Z"}
    world.put_session("erin", status={"phase": "Running", **activity}, template="t")
    assert len(world.polls.queue) == 4


async def test_desktop_that_a_dead_process_has_not_polled_is_polled(world: ActivityWorld) -> None:
    world.put(
        world.caches.templates, VDITemplate, "t", metadata={"namespace": ""}, spec={"image": "i"}
    )
    world.clock.wall = START + timedelta(minutes=5)
    world.session(idle=None, readyTime="2026-11-20T08:03:30Z")
    assert len(world.polls.queue) == 1
    world.put_session(
        "bob",
        status={"phase": "Running", "readyTime": "2026-11-20T08:00:00Z", "conditions": [CLOSING]},
        template="t",
    )
    assert len(world.polls.queue) == 2


async def test_kill_for_want_of_memory_wakes_its_session_until_it_is_said(
    running: ActivityWorld,
) -> None:
    running.agent.answer |= {"memoryKillSeconds": 30.0, "graphics": GRAPHICS}
    running.session(idle=None, graphics=GRAPHICS)
    await running.poll()
    assert running.was_woken()
    activity = running.agents.report("uid-alice")
    assert activity and activity.memory_kill == START - timedelta(seconds=30)
    said = {"type": "OutOfMemory", "status": "True", "reason": "ProgramKilled"}
    running.session(idle=None, graphics=GRAPHICS, conditions=[said])
    running.agent.answer["memoryKillSeconds"] = 0.0
    await running.poll()
    assert not running.was_woken(), "a desktop that reports one at each poll costs no write"
    running.session(idle=None, graphics=GRAPHICS)
    running.agent.answer["memoryKillSeconds"] = 3600.0
    await running.poll()
    assert not running.was_woken(), "it is over"


@pytest.mark.parametrize(
    "wrong",
    [
        {"renderer": "<script>"},
        {"device": "x" * 257},
        {"encoder": "x\ny"},
        {"reason": "no words please"},
        *(
            {name: f"x{hidden}"}
            for name in ("device", "message", "encoderMessage", "display", "encoder", "reason")
            for hidden in (
                "\x1b]0;title\x07",
                "\x9b2J",
                "\u202e",
                "\u2066",
                "\u200b",
                "\n",
                "\u2028",
                "\U000e0041",
            )
        ),
    ],
)
async def test_hostile_graphics_of_an_agent_are_dropped(running: ActivityWorld, wrong: Any) -> None:
    running.agent.answer["graphics"] = GRAPHICS | wrong
    await running.poll()
    assert running.agents.report("uid-alice") is None


async def test_change_of_graphics_wakes_its_session(running: ActivityWorld) -> None:
    running.agent.answer["graphics"] = GRAPHICS
    await running.poll()
    assert running.was_woken()
    running.session(graphics=GRAPHICS)
    await running.poll()
    assert not running.was_woken()


async def test_new_idle_timeout_of_a_template_polls_its_desktops(running: ActivityWorld) -> None:
    running.session(idle=None, graphics=GRAPHICS)
    running.put(
        running.caches.templates, VDITemplate, "t", metadata={"namespace": ""}, spec={"image": "i"}
    )
    assert await running.poll() == 60.0
    spec = {"image": "i", "lifecycle": {"idleTimeout": "1h"}}
    running.polls.queue.done(await running.polls.queue.take())
    running.put(running.caches.templates, VDITemplate, "t", metadata={"namespace": ""}, spec=spec)
    assert await asyncio.wait_for(running.polls.queue.take(), PATIENCE) == KEY
    assert await running.poll() is not None


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, 0),
        ("no JSON", 200),
        ({"idleSeconds": -1, "viewers": 0}, 200),
        ({"idleSeconds": 1e300, "viewers": 0}, 200),
        ({"idleSeconds": 1, "viewers": 0, "workSeconds": -1}, 200),
        ({"viewers": 0}, 200),
        ("x" * 10_000, 200),
        ('{"a":' + "[" * 2000, 200),
        ("", 302),
        ("the X server can't be asked", 503),
    ],
)
async def test_failing_agent_is_not_idle_and_polled_ever_less(
    running: ActivityWorld, answer: Any, status: int
) -> None:
    running.agent.answer, running.agent.status = answer, status
    if not status:  # an image without an agent
        running.pod(ip="127.0.0.2")
    assert [await running.poll() for _ in range(6)] == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0]
    assert running.agents.report("uid-alice") is None
    ((_, _, note),) = running.said
    assert note.startswith(
        "The operator cannot check whether the desktop is in use, so it does not count as idle:"
        " its "
    )
    assert ("its agent does not respond" in note) is (not status)


HOURS = {"timeZone": "UTC", "windows": [{"start": "0 9 * * *", "end": "0 18 * * *"}]}
CLOSING = {
    "type": "Closing",
    "status": "True",
    "reason": "R",
    "lastTransitionTime": "2026-11-20T17:55:00Z",
}


@pytest.mark.parametrize("idle", [None, "1h"])
async def test_failing_agent_is_polled_often_while_its_hours_end(
    running: ActivityWorld, idle: str | None
) -> None:
    running.put_template("t", schedule=HOURS)
    running.session(idle=idle, graphics=GRAPHICS, conditions=[CLOSING])
    running.agent.status = 503
    assert [await running.poll() for _ in range(4)] == [5.0] * 4
    running.agent.status = 200
    await running.poll()
    assert running.agents.report("uid-alice") is not None


async def test_a_session_that_stops_is_forgotten(running: ActivityWorld) -> None:
    await running.poll()
    assert running.agents.report("uid-alice")
    running.session(phase="Suspended")
    assert running.agents.report("uid-alice") is None
    assert await running.poll() is None


async def deliver(
    world: ActivityWorld, session: VDISession, pod: Pod, notice: Notice
) -> float | None:
    world.agents.notify(session, pod, notice)
    if not len(world.deliveries.queue):
        return None
    key = await world.deliveries.queue.take()
    assert key is not None
    again = (await world.agents.deliver(key)).requeue_after
    world.deliveries.queue.done(key)
    return again


async def test_notice_is_delivered_once_and_withdrawn_once(world: ActivityWorld) -> None:
    session, pod = world.session(), world.pod()
    world.secret()
    for text in ("Press a key", "Press a key", "", ""):
        assert (
            await deliver(
                world, session, pod, Notice("Idle", "Are you there?", text, until_input=True)
            )
            is None
        )
    assert [
        (notice["id"], notice["text"], notice["untilInput"]) for notice in world.agent.notices
    ] == [
        ("Idle", "Press a key", True),
        ("Idle", "", True),
    ]


async def test_notice_is_retried_until_it_is_outdated(world: ActivityWorld) -> None:
    session, pod = world.session(), world.pod()
    world.secret()
    world.agent.status = 503
    key = (*KEY, "Expiring")
    assert (
        await deliver(
            world, session, pod, Notice("Expiring", "Soon", "At 9", "2026-11-20T09:00:00Z")
        )
        == 5.0
    )
    assert (await world.agents.deliver(key)).requeue_after == 5.0
    world.agent.status = 200
    assert (await world.agents.deliver(key)).requeue_after is None
    assert [(notice["until"], notice["untilInput"]) for notice in world.agent.notices] == [
        ("2026-11-20T09:00:00Z", False)
    ]
    world.agent.status = 503
    await deliver(world, session, pod, Notice("Expiring", "Soon", "At 10", "2026-11-20T10:00:00Z"))
    world.clock.wall = START + timedelta(hours=2)
    assert (await world.agents.deliver(key)).requeue_after is None


STARTING = {"mode": "Always", "state": "Starting"}


async def test_recorded_desktop_is_polled_often_until_it_is_recorded(
    running: ActivityWorld,
) -> None:
    running.session(idle=None, graphics=GRAPHICS, recording=STARTING)
    running.agent.answer |= {
        "recording": {"state": "Failed", "message": "disk full"},
        "graphics": GRAPHICS,
    }
    assert await running.poll() == 1.0
    assert running.was_woken()
    activity = running.agents.report("uid-alice")
    assert activity and activity.recording and activity.recording.message == "disk full"
    running.agent.answer["recording"] = {"state": "On"}
    await running.poll()
    assert running.was_woken()
    running.session(idle=None, graphics=GRAPHICS, recording=STARTING | {"state": "On"})
    assert await running.poll() == 5.0
    assert not running.was_woken()


@pytest.mark.parametrize(
    "closing", [{}, {"conditions": [CLOSING]}], ids=["any time", "before working hours end"]
)
async def test_recorded_desktop_without_an_agent_is_not_recorded(
    running: ActivityWorld, closing: Any
) -> None:
    running.session(idle=None, graphics=GRAPHICS, recording=STARTING | {"state": "On"}, **closing)
    running.put_template("t", schedule=HOURS)
    running.agent.status = 503
    assert [await running.poll() for _ in range(2)] == [1.0, 1.0]
    assert not running.was_woken()
    await running.poll()
    assert running.was_woken()
    activity = running.agents.report("uid-alice")
    assert activity and activity.recording and activity.recording.state == "Failed"


async def test_agent_that_reports_no_recording_makes_none(running: ActivityWorld) -> None:
    running.session(idle=None, graphics=GRAPHICS, recording=STARTING | {"state": "On"})
    await running.poll()
    assert running.was_woken()


@pytest.mark.parametrize(
    "wrong", [{"state": "Maybe"}, {"state": "On\n"}, {"state": "On", "message": "\x1b[2J"}]
)
async def test_hostile_report_of_a_recording_is_no_recording(
    running: ActivityWorld, wrong: Any
) -> None:
    running.session(idle=None, graphics=GRAPHICS, recording=STARTING)
    running.agent.answer["recording"] = wrong
    assert [await running.poll() for _ in range(3)] == [1.0, 1.0, 1.0]
    activity = running.agents.report("uid-alice")
    assert activity and activity.recording and activity.recording.state == "Failed"
