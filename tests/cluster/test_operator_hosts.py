"""A host never passes to another person. Against a real API server."""

import base64

import msgspec
import pytest

from cluster.operator_stage import QUOTAS, Stage, condition
from cluster.test_operator_leader import read_page
from support.desktop_key import KEY
from support.waiting import eventually
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.errors import Invalid
from vdi.kube.resource import CONFIG_MAPS, SECRETS
from vdi.operator.release_keys import HOST_KEY as SECRET

pytestmark = pytest.mark.timeout(150)

ALICE, MALLORY = "alice@example.com", "mallory@example.com"


async def hosts_of(stage: Stage) -> dict[str, str]:
    """The host of each route, by the route's name."""
    rules = {
        one["metadata"]["name"]: one["spec"]["routes"][0]["match"]
        for one in await stage.all(ROUTES)
    }
    return {name: rule.removeprefix("Host(`").removesuffix("`)") for name, rule in rules.items()}


async def owner_of(stage: Stage, label: str) -> str | None:
    found = await stage.get(CONFIG_MAPS, f"vdi-host-{label}")
    return str(found["data"]["user"]) if found else None


async def test_session_name_has_another_host_for_another_user(stage: Stage, template: str) -> None:
    async with stage.operator():
        theirs = (await stage.start("alice-small", template, user=MALLORY))["status"]["url"]
        await stage.end("alice-small")
        mine = (await stage.start("alice-small", template))["status"]["url"]
        assert mine == f"https://{stage.host('alice-small')}"
        assert mine != theirs
        assert await hosts_of(stage) == {"alice-small": stage.host("alice-small")}
        await stage.end("alice-small")
        again = await stage.start("alice-small", template)
        assert again["status"]["url"] == mine, "the same person has the same host again"
        refused = {"spec": {"hostname": theirs.removeprefix("https://").partition(".")[0]}}
        with pytest.raises(Invalid, match="is not a label without a hash"):
            await stage.patch(SESSIONS, "alice-small", refused)
    assert [
        one
        for one in await stage.all(CONFIG_MAPS)
        if one["metadata"]["name"].startswith("vdi-host-")
    ] == []


async def test_chosen_host_is_reserved_for_its_first_owner(stage: Stage, template: str) -> None:
    async with stage.operator():
        await stage.start("theirs", template, user=MALLORY, hostname="desk")
        await stage.end("theirs")
        assert await owner_of(stage, "desk") == MALLORY, "it outlives the session"
        await stage.session("mine", template, hostname="desk")
        waiting = await stage.reach("mine", "Pending", "The host name `desk` is not available.")
        assert condition(waiting, "Admitted")["reason"] == "HostTaken"
        assert "url" not in waiting["status"]
        assert MALLORY not in str(waiting["status"]) and "theirs" not in str(waiting["status"])
        assert await hosts_of(stage) == {}
        await stage.start("again", template, user=MALLORY, hostname="desk")
        await stage.end("again")
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")
        assert (await stage.run("mine"))["status"]["url"] == "https://desk.vdi.localhost"
        assert await owner_of(stage, "desk") == ALICE


async def test_host_that_is_in_use_cannot_be_released(stage: Stage, template: str) -> None:
    async with stage.operator():
        await stage.start("mine", template, hostname="desk")
        await stage.session("theirs", template, user=MALLORY, hostname="desk")
        await stage.reach("theirs", "Pending", "not available")
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")
        await stage.until(
            CONFIG_MAPS, "vdi-host-desk", lambda found: found["data"]["user"] == ALICE, "made again"
        )
        await stage.reach("theirs", "Pending", "not available")
        assert await hosts_of(stage) == {"mine": "desk.vdi.localhost"}


async def test_reservation_without_its_labels_still_counts(stage: Stage, template: str) -> None:
    """The watch does not bring it: the API server knows it all the same."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "vdi-host-desk"},
        "data": {"user": MALLORY},
    }
    await stage.api.create(CONFIG_MAPS, body, namespace=stage.namespace, into=msgspec.Raw)
    async with stage.operator():
        await stage.session("mine", template, hostname="desk")
        await stage.reach("mine", "Pending", "not available")
        assert (await hosts_of(stage), await owner_of(stage, "desk")) == ({}, MALLORY)
        await stage.delete(CONFIG_MAPS, "vdi-host-desk")
        await stage.run("mine")


async def test_refused_reservation_is_reported_and_retried(stage: Stage, template: str) -> None:
    await stage.quota("none", **{"count/configmaps": str(len(await stage.all(CONFIG_MAPS)))})
    async with stage.operator():
        await stage.session("mine", template, hostname="desk")
        waiting = await stage.reach(
            "mine", "Pending", "The desktop's ConfigMap exceeds the namespace's quota"
        )
        assert condition(waiting, "Admitted")["reason"] == "QuotaExceeded"
        assert (await hosts_of(stage), "url" in waiting["status"]) == ({}, False)
        await stage.delete(QUOTAS, "none")
        await stage.touch("mine")
        await stage.run("mine")


async def test_operator_without_its_key_reconciles_no_session(stage: Stage, template: str) -> None:
    await stage.patch(SECRETS, SECRET, {"data": {"key": base64.b64encode(b"short").decode()}})
    async with stage.operator() as port:
        await stage.session("mine", template)

        async def unready() -> bool:
            status, said = await read_page(port, "/readyz")
            return status == 503 and f"{stage.namespace}/{SECRET} has no entry 'key'" in said

        await eventually(unready, "/readyz says why")
        session = await stage.get(SESSIONS, "mine")
        assert session and "finalizers" not in session["metadata"]
        await stage.patch(SECRETS, SECRET, {"data": {"key": base64.b64encode(KEY).decode()}})
        assert (await stage.run("mine"))["status"]["url"] == f"https://{stage.host('mine')}"
