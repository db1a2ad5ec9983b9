"""The portal on a real API server with the real operator: every deed by its form, and a page that
follows live.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import httpx

from cluster.gateway_stage import GatewayStage, open_gateway_stage
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.api.schedule import Day
from vdi.kinds import SESSIONS
from vdi.session.cluster_settings import ClusterSettings

DESK = "/desktops/mine"
LOCAL_DISK = {"defaultEphemeralStorage": "5Gi", "maxEphemeralStorage": "20Gi"}
# As the gateway of these tests has it.
SETTINGS = ClusterSettings(url_port=8443)


def words(page: str) -> str:
    """The text of a page, about as a person reads it."""
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


class Person:
    """Somebody at a browser."""

    def __init__(self, gateway: GatewayStage, client: httpx.AsyncClient) -> None:
        self._gateway = gateway
        self.client = client

    async def reads(self, path: str) -> str:
        """A page's words."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return words(answer.text)

    async def sees(self, path: str, text: str) -> None:
        """Wait until the page has these words."""

        async def look() -> bool:
            return text in await self.reads(path)

        await eventually(look, f"{path} says {text!r}")

    async def sends(
        self, path: str, at: str, fields: Mapping[str, str] | None = None, *, status: int = 303
    ) -> httpx.Response:
        """Send the form on the page `at`."""
        answer = await self._gateway.post(self.client, path, fields, at=at)
        assert answer.status_code == status, (path, answer.status_code, words(answer.text))
        return answer


async def test_desktop_is_started_used_and_ended_in_the_portal(
    stage: Stage, tmp_path: Path
) -> None:
    await stage.node("disk", has={"ephemeral-storage": "100Gi"})
    template = await stage.template(
        displayName="Writing desk", resources={"maxMemory": "8Gi", **LOCAL_DISK}
    )
    async with open_gateway_stage(stage, tmp_path) as gateway, stage.operator(cluster=SETTINGS):
        alice = Person(gateway, await gateway.log_in("alice@example.com"))
        bob = Person(gateway, await gateway.log_in("bob@example.com"))
        form = f"/catalogue/{template}"
        await alice.sees("/catalogue", "Writing desk")
        fields = {
            "name": "mine",
            "gpu": "1",
            "memory": "8Gi",
            "cpu": "2",
            "timeout": "1h",
            "home": "yes",
        }
        fields["ephemeral_storage"] = "20Gi"

        refused = await alice.sends(form, form, fields | {"name": "Not_A_Name"}, status=422)
        assert "Not_A_Name" in words(refused.text)
        assert 'value="Not_A_Name"' in refused.text
        started = await alice.sends(form, form, fields | {"then": "open"})
        assert started.headers["location"] == f"{DESK}/open"
        opened = await alice.client.get(f"{DESK}/open", follow_redirects=False)
        host = stage.host("mine").removesuffix(".vdi.localhost")
        assert opened.headers["location"] == gateway.desktop(host) + "/"
        session = await stage.get(SESSIONS, "mine")
        assert session
        assert session["spec"]["resources"]["memory"] == "8Gi"
        assert session["spec"]["resources"]["ephemeralStorage"] == "20Gi"

        async with listening(alice.client) as heard:
            await stage.run("mine")
            await eventually(
                lambda: "Running" in words("".join(heard)), "the open page says Running"
            )
        await alice.sees("/", "1 GPU 2 CPUs 8 GiB 20 GiB local disk")
        await alice.sees(DESK, "20 GiB local disk")

        await alice.sends(f"{DESK}/extend", DESK, {"timeout": "2h"})
        await alice.sends(
            f"{DESK}/share", DESK, {"user": "bob@example.com", "role": "viewer", "length": "1h"}
        )
        await bob.sees("/shared", "mine")
        forbidden = await bob.sends(f"{DESK}/end", DESK, status=403)
        assert "As viewer of alice@example.com's desktop 'mine' you may not end it" in words(
            forbidden.text
        )
        await alice.sends(f"{DESK}/unshare", DESK, {"user": "bob@example.com"})
        await bob.sees("/shared", "Nothing is shared with you")

        await alice.sends(f"{DESK}/suspend", f"{DESK}/suspend")
        await alice.sees(DESK, "Suspended")
        await stage.reach("mine", "Suspended")
        await alice.sends(f"{DESK}/resume", DESK)
        await stage.run("mine")
        await alice.sends(f"{DESK}/end", f"{DESK}/end", {"deleteHome": "true"})
        await stage.gone(SESSIONS, "mine")
        await alice.sees("/", "No desktop yet")
        await alice.sees("/history", "Ended by its owner")
        csv = await alice.client.get("/api/v1/export?what=sessions")
        head, row = csv.text.splitlines()
        reported = dict(zip(head.split(","), row.split(","), strict=True))
        assert (reported["name"], reported["user"], reported["endReason"]) == (
            "mine",
            "alice@example.com",
            "user",
        )


async def test_schedule_set_in_the_form_resumes_the_desktop(stage: Stage, tmp_path: Path) -> None:
    template = await stage.template()
    async with open_gateway_stage(stage, tmp_path) as gateway, stage.operator(cluster=SETTINGS):
        alice = Person(gateway, await gateway.log_in("alice@example.com"))
        await stage.session("mine", template=template, user="alice@example.com", suspended=True)
        page = "/desktops/mine"
        action = "/desktops/mine/schedule"
        soon = datetime.now(UTC) + timedelta(minutes=3)
        await alice.sees(page, "Set schedule")
        fields = {"start": f"{soon:%H:%M}", "time_zone": "UTC"} | {day.value: "yes" for day in Day}
        refused = await alice.sends(
            action, page, fields | {"time_zone": "Mars/Olympus"}, status=422
        )
        assert "'Mars/Olympus' is not allowed; allowed: a known time zone" in words(refused.text)
        refused = await alice.sends(
            action, page, {"start": "25:00", "time_zone": "UTC", "MON": "yes"}, status=422
        )
        assert "'25:00' is not allowed; allowed: a time of day from 00:00 to 23:59" in words(
            refused.text
        )
        await alice.sends(action, page, fields)
        await stage.run("mine")
        await alice.sees(page, f"{soon:%H:%M}, every day, UTC")
        await alice.sends(action, page, {"remove": "yes"})
        session = await stage.get(SESSIONS, "mine")
        assert session and session["spec"].get("schedule") is None


async def test_administrator_pages_show_everyones_sessions(stage: Stage, tmp_path: Path) -> None:
    template = await stage.template()
    async with open_gateway_stage(stage, tmp_path) as gateway, stage.operator():
        alice = Person(gateway, await gateway.log_in("alice@example.com"))
        root = Person(gateway, await gateway.log_in("root@example.com"))
        await alice.sees("/catalogue", template)
        await alice.sends(
            f"/catalogue/{template}", f"/catalogue/{template}", {"name": "mine", "timeout": "1h"}
        )
        await stage.run("mine")
        for path, text in (
            ("/admin", "1 running"),
            ("/admin/sessions?q=alice", "mine alice@example.com"),
            ("/admin/templates", template),
            ("/admin/people", "alice@example.com password 0 1 1"),
            ("/admin/audit?actor=alice@example.com", "session.start mine done"),
            ("/history?of=everyone", "mine alice@example.com"),
        ):
            await root.sees(path, text)
        await root.sends("/admin/doctor", "/admin/doctor")
        assert "Checked 1 session" in await root.reads("/admin/doctor")
        await root.sends(f"{DESK}/end", f"{DESK}/end")
        await stage.gone(SESSIONS, "mine")
        await alice.sees("/history", "Ended by an administrator")


@asynccontextmanager
async def listening(client: httpx.AsyncClient) -> AsyncIterator[list[str]]:
    """The lines of the stream of `My desktops`, while the context lasts."""
    heard: list[str] = []
    headers = {"Accept": "text/event-stream"}
    async with client.stream("GET", "/events?view=desktops&seen=", headers=headers) as answer:
        assert answer.status_code == 200

        async def read() -> None:
            async for line in answer.aiter_lines():
                heard.append(line)

        reading = asyncio.create_task(read())
        try:
            yield heard
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
