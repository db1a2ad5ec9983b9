"""Suspended, resumed and started again, against a real API server. The test is the kubelet."""

import base64

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import Stage, condition
from support.desktop_key import tokens_of
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.resource import CLAIMS, PODS, SECRETS, SERVICES
from vdi.operator.release_keys import DESKTOP_KEY
from vdi.session.credentials import KEY_ENTRY

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


async def test_suspended_session_keeps_only_home_and_address(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start(NAME, template)
        (old,) = await stage.owned(PODS, session)
        (secret,) = await stage.owned(SECRETS, session)
        await stage.suspend(NAME)
        resting = await stage.reach(NAME, "Suspended", "It starts again when it is resumed")
        await stage.podless(session)
        assert await stage.owned(ROUTES, session) == []
        assert await stage.owned(SECRETS, session) == [secret]
        assert len(await stage.owned(SERVICES, session)) == 1
        status = resting["status"]
        assert status["url"] == session["status"]["url"]
        assert {
            "startTime",
            "expiresAt",
            "readyTime",
            "podName",
            "nodeName",
            "failures",
        }.isdisjoint(status)
        assert (
            condition(resting, "Ready")["reason"],
            condition(resting, "Admitted")["reason"],
        ) == ("Suspended",) * 2
        homes = await stage.all(CLAIMS)

        await stage.suspend(NAME, suspended=False)
        running = await stage.run(NAME)
        (new,) = await stage.owned(PODS, session)
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert new["spec"]["volumes"] == old["spec"]["volumes"]
        assert [one["metadata"]["uid"] for one in await stage.all(CLAIMS)] == [
            home["metadata"]["uid"] for home in homes
        ]
        assert running["status"]["url"] == session["status"]["url"]
        assert running["status"]["startTime"] == new["metadata"]["creationTimestamp"], "a new run"
        assert await stage.owned(SECRETS, session) == [secret]
        await stage.event("Suspended")


async def test_tokens_of_another_key_are_replaced_first(stage: Stage, template: str) -> None:
    """The gateway derives them from the key that there is now."""
    async with stage.operator():
        session = await stage.start(NAME, template)
        await stage.suspend(NAME)
        await stage.reach(NAME, "Suspended")
        await stage.podless(session)
    (old,) = await stage.owned(SECRETS, session)
    key = b"another key" * 3
    await stage.patch(SECRETS, DESKTOP_KEY, {"data": {KEY_ENTRY: base64.b64encode(key).decode()}})

    async def watches_lag(request: Request) -> None:
        """Then no event of our own write makes up for a look that was left out."""
        if request.path.endswith("/secrets"):
            stage.proxy.reported.clear()

    async with stage.operator():
        stage.proxy.meanwhile = watches_lag
        await stage.suspend(NAME, suspended=False)
        await stage.pod_of(session)
        stage.proxy.reported.set()
        await stage.run(NAME)
        (new,) = await stage.owned(SECRETS, session)
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        given = [
            base64.b64decode(new["data"][name]).decode() for name in ("password", "agentToken")
        ]
        tokens = tokens_of(NAME, uid=session["metadata"]["uid"], key=key)
        assert given == [tokens.password, tokens.agent]
        made = [
            write.path.split("?")[0].rsplit("/", 1)[1]
            for write in stage.proxy.writes()
            if write.method == "POST"
        ]
        assert made.index("secrets") < made.index("pods"), "a kubelet must not see the old one"


async def test_resumed_session_waits_for_its_last_pod(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start(NAME, template)
        (old,) = await stage.owned(PODS, session)
        await stage.patch(PODS, NAME, {"metadata": {"finalizers": ["example.com/hold"]}})
        await stage.suspend(NAME)
        await stage.reach(NAME, "Suspended")
        await stage.suspend(NAME, suspended=False)
        await stage.reach(NAME, "Pending", "is restarted when")
        await stage.patch(PODS, NAME, {"metadata": {"finalizers": None}})
        await stage.next_pod(session, old)
        running = await stage.run(NAME)
        assert "failures" not in running["status"], "what we did ourselves is no failure"


async def test_restart_replaces_the_pod_and_nothing_else(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start(NAME, template)
        (old,) = await stage.owned(PODS, session)
        at = "2026-11-20T10:00:00Z"
        await stage.patch(
            SESSIONS, NAME, {"metadata": {"annotations": {"vdi.kasm.io/restartedAt": at}}}
        )
        await stage.next_pod(session, old)
        running = await stage.run(NAME)
        (new,) = await stage.owned(PODS, session)
        assert new["spec"]["volumes"] == old["spec"]["volumes"]
        notes = new["metadata"]["annotations"]
        assert notes["vdi.kasm.io/restartedAt"] == at
        assert notes["vdi.kasm.io/run-started"] == session["status"]["startTime"]
        for field in ("startTime", "expiresAt", "url"):
            assert running["status"][field] == session["status"][field]
        assert "failures" not in running["status"]
