"""A host never passes to another person. Against a real API server."""

import asyncio
import base64

import msgspec
import pytest

from cluster.operator_stage import Stage, condition
from support.desktop_key import KEY
from support.waiting import eventually
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.errors import Invalid
from vdi.kube.resource import CONFIG_MAPS, SECRETS, Resource
from vdi.operator.release_keys import HOST_KEY as SECRET

pytestmark = pytest.mark.timeout(150)

ALICE, MALLORY = "alice@example.com", "mallory@example.com"
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
NO_HOME = {"persistence": {"enabled": False}}


async def url_of(stage: Stage, name: str) -> str:
    session = await stage.get(SESSIONS, name)
    assert session
    return str(session["status"].get("url", ""))


async def hosts_of(stage: Stage) -> dict[str, str]:
    """Where each route leads, by its name."""
    rules = {one["metadata"]["name"]: one["spec"]["routes"][0]["match"] for one in await stage.all(ROUTES)}
    return {name: rule.removeprefix("Host(`").removesuffix("`)") for name, rule in rules.items()}


async def owner_of(stage: Stage, label: str) -> str | None:
    found = await stage.get(CONFIG_MAPS, f"vdi-host-{label}")
    return str(found["data"]["user"]) if found else None


async def end(stage: Stage, name: str) -> None:
    await stage.delete(SESSIONS, name)
    await stage.gone(SESSIONS, name)


async def test_session_of_the_same_name_has_another_host_for_another_person(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    async with stage.operator():
        await stage.session("alice-small", template, user=MALLORY)
        theirs = (await stage.run("alice-small"))["status"]["url"]
        await end(stage, "alice-small")
        await stage.session("alice-small", template)
        mine = (await stage.run("alice-small"))["status"]["url"]
        assert mine == f"https://{stage.host('alice-small')}"
        assert mine != theirs
        assert await hosts_of(stage) == {"alice-small": stage.host("alice-small")}
        await end(stage, "alice-small")
        await stage.session("alice-small", template)
        assert (await stage.run("alice-small"))["status"]["url"] == mine, "the same person has the same host again"
        refused = {"spec": {"hostname": theirs.removeprefix("https://").partition(".")[0]}}
        with pytest.raises(Invalid, match="is not a label without a hash"):
            await stage.patch(SESSIONS, "alice-small", refused)
    assert [one for one in await stage.all(CONFIG_MAPS) if one["metadata"]["name"].startswith("vdi-host-")] == []


async def test_address_is_known_while_the_session_waits_for_room(stage: Stage) -> None:
    template = await stage.template(**NO_HOME, placement={"nodeSelector": stage.here})
    await stage.node("small", gpu="1")
    async with stage.operator():
        await stage.session("first", template)
        await stage.reach("first", "Creating")
        await stage.session("second", template)
        waiting = await stage.reach("second", "Pending", "Waiting for capacity")
        assert waiting["status"]["url"] == f"https://{stage.host('second')}"
        assert list(await hosts_of(stage)) == ["first"]


async def test_chosen_host_stays_its_first_owners_until_it_is_released(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    async with stage.operator():
        await stage.session("theirs", template, user=MALLORY, hostname="desk")
        await stage.run("theirs")
        await end(stage, "theirs")
        assert await owner_of(stage, "desk") == MALLORY, "it outlives the session"
        await stage.session("mine", template, hostname="desk")
        waiting = await stage.reach("mine", "Pending", "The host name `desk` is not available.")
        assert condition(waiting, "Admitted")["reason"] == "HostTaken"
        assert "url" not in waiting["status"]
        assert MALLORY not in str(waiting["status"]) and "theirs" not in str(waiting["status"])
        assert await hosts_of(stage) == {}
        await stage.session("again", template, user=MALLORY, hostname="desk")
        await stage.run("again")
        await end(stage, "again")
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")
        assert (await stage.run("mine"))["status"]["url"] == "https://desk.vdi.localhost"
        assert await owner_of(stage, "desk") == ALICE


async def test_host_that_is_in_use_cannot_be_released(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    async with stage.operator():
        await stage.session("mine", template, hostname="desk")
        await stage.run("mine")
        await stage.session("theirs", template, user=MALLORY, hostname="desk")
        await stage.reach("theirs", "Pending", "not available")
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")

        async def again() -> bool:
            return await owner_of(stage, "desk") == ALICE

        await eventually(again, "the reservation is made again")
        await stage.reach("theirs", "Pending", "not available")
        assert await hosts_of(stage) == {"mine": "desk.vdi.localhost"}


async def test_reservation_without_its_labels_still_counts(stage: Stage) -> None:
    """The watch does not bring it: the API server knows it all the same."""
    template = await stage.template(**NO_HOME)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vdi-host-desk"}, "data": {"user": MALLORY}}
    await stage.api.create(CONFIG_MAPS, body, namespace=stage.namespace, into=msgspec.Raw)
    async with stage.operator():
        await stage.session("mine", template, hostname="desk")
        await stage.reach("mine", "Pending", "not available")
        assert (await hosts_of(stage), await owner_of(stage, "desk")) == ({}, MALLORY)
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")
        await stage.run("mine")


async def test_reservation_that_the_api_server_refuses_is_said_and_tried_again(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    there = len(await stage.all(CONFIG_MAPS))
    hard = {"hard": {"count/configmaps": str(there)}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": hard}
    await stage.api.create(QUOTAS, quota, namespace=stage.namespace, into=msgspec.Raw)

    async def counted() -> bool:
        return bool((await stage.get(QUOTAS, "none") or {}).get("status", {}).get("hard"))

    await eventually(counted, "the quota is in force")
    async with stage.operator():
        await stage.session("mine", template, hostname="desk")
        waiting = await stage.reach("mine", "Pending", "The desktop's ConfigMap exceeds the namespace's quota")
        assert condition(waiting, "Admitted")["reason"] == "QuotaExceeded"
        assert (await hosts_of(stage), "url" in waiting["status"]) == ({}, False)
        await stage.delete(QUOTAS, "none")
        await stage.patch(SESSIONS, "mine", {"metadata": {"annotations": {"look": "again"}}})
        await stage.run("mine")


async def test_two_operators_that_start_at_once_use_one_key(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    await stage.patch(SECRETS, SECRET, {"data": None})  # as the chart makes it
    async with stage.operator(), stage.operator():
        await stage.session("mine", template)
        url = (await stage.run("mine"))["status"]["url"]
        made = await stage.get(SECRETS, SECRET)
        assert made
        key = base64.b64decode(made["data"]["key"])
        assert (len(key), key != KEY, url != f"https://{stage.host('mine')}") == (32, True, True)
    async with stage.operator():
        await stage.session("other", template)
        await stage.run("other")
        assert await url_of(stage, "mine") == url
        again = await stage.get(SECRETS, SECRET)
        assert again and again["metadata"]["uid"] == made["metadata"]["uid"]


async def test_without_its_key_the_operator_works_on_no_session(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    await stage.patch(SECRETS, SECRET, {"data": {"key": base64.b64encode(b"short").decode()}})
    async with stage.operator() as port:
        await stage.session("mine", template)

        async def unready() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = (await reader.read()).decode()
            writer.close()
            return " 503 " in answer and f"{stage.namespace}/{SECRET} has no entry 'key'" in answer

        await eventually(unready, "/readyz says why")
        session = await stage.get(SESSIONS, "mine")
        assert session and "finalizers" not in session["metadata"]
        await stage.patch(SECRETS, SECRET, {"data": {"key": base64.b64encode(KEY).decode()}})
        assert (await stage.run("mine"))["status"]["url"] == f"https://{stage.host('mine')}"
