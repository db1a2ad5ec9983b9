"""A home that is made while the start form is open: on the only node, used once, deleted when no
one starts anything.

Real API server, operator and gateway; the test is the kubelet, and no volume is made.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from cluster.gateway_stage import open_gateway_stage
from cluster.operator_stage import Object, Stage
from support.waiting import eventually
from vdi.gateway import starting
from vdi.kinds import SESSIONS
from vdi.kube.resource import CLAIMS, PODS
from vdi.operator.controllers.homes_ahead import SELECTED_NODE
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.homes import LAST_USED, MADE_AHEAD
from vdi.session.naming import home_claim_name

pytestmark = pytest.mark.timeout(150)
ALICE, BOB = "alice@example.com", "bob@example.com"
SETTINGS = ClusterSettings(url_port=8443)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Says how long unused homes are kept from now on; they are looked at all the time."""
    monkeypatch.setattr(starting, "_SWEEP_SECONDS", 0.05)
    return lambda time: monkeypatch.setattr(starting, "_KEPT", time)


async def open_form(browser: httpx.AsyncClient, template: str) -> None:
    answer = await browser.get(f"/catalogue/{template}")
    assert answer.status_code == 200, answer.text


async def annotations(stage: Stage) -> list[dict[str, str]]:
    """Of the claims that are not being deleted."""
    claims = [claim["metadata"] for claim in await stage.all(CLAIMS)]
    return [claim["annotations"] for claim in claims if "deletionTimestamp" not in claim]


async def homes(stage: Stage) -> dict[str, dict[str, str]]:
    """Their annotations by their user."""
    return {one["vdi.kasm.io/user"]: one for one in await annotations(stage)}


async def until_made(stage: Stage, user: str, *, node: str | None = None) -> dict[str, str]:
    async def look() -> dict[str, str] | None:
        notes = (await homes(stage)).get(user, {})
        return notes if MADE_AHEAD in notes and notes.get(SELECTED_NODE) == node else None

    return await eventually(look, f"a home of {user}, made ahead, for node {node}")


async def until_gone(stage: Stage, user: str) -> None:
    async def look() -> bool:
        return user not in await homes(stage)

    await eventually(look, f"the home of {user} is deleted")


async def test_first_desktop_uses_the_home_made_ahead(
    stage: Stage, tmp_path: Path, kept: Callable[[timedelta], None]
) -> None:
    node = await stage.node("only")
    template = await stage.template(placement={"nodeSelector": stage.here})
    async with open_gateway_stage(stage, tmp_path) as gateway, stage.operator(cluster=SETTINGS):
        alice, bob = await gateway.log_in(ALICE), await gateway.log_in(BOB)
        await alice.get("/catalogue")
        assert await homes(stage) == {}  # looking at what there is makes nothing
        await open_form(alice, template)
        assert (await until_made(stage, ALICE, node=node))[MADE_AHEAD] == template
        (ahead,) = await stage.all(CLAIMS)
        fields = {"name": "mine", "home": "yes", "then": "stay"}
        answer = await gateway.post(alice, f"/catalogue/{template}", fields)
        assert answer.status_code == 303, answer.text
        await stage.run("mine")
        (used,) = await stage.all(CLAIMS)
        assert used["metadata"]["uid"] == ahead["metadata"]["uid"]
        assert MADE_AHEAD not in used["metadata"]["annotations"]
        (pod,) = await stage.all(PODS)
        assert any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == used["metadata"]["name"]
            for volume in pod["spec"]["volumes"]
        )
        await stage.end("mine")
        await open_form(alice, template)  # the home is there: nothing is made
        await open_form(bob, template)
        await until_made(stage, BOB, node=node)
        kept(timedelta())
        await until_gone(stage, BOB)
        assert MADE_AHEAD not in (await homes(stage))[ALICE]


async def test_one_home_ahead_per_user_and_no_choice_of_node(stage: Stage, tmp_path: Path) -> None:
    with_gpu = await stage.node("gpu")
    await stage.node("cpu", gpu="0")
    names = [f"{stage.namespace}-{suffix}" for suffix in ("cad", "office")]
    for name in names:
        await stage.template_named(
            name, placement={"nodeSelector": stage.here}, resources={"defaultGPU": 0}
        )
    on_gpu = await stage.template(placement={"nodeSelector": stage.here})
    async with open_gateway_stage(stage, tmp_path) as gateway, stage.operator(cluster=SETTINGS):
        alice, bob = await gateway.log_in(ALICE), await gateway.log_in(BOB)
        for name in names:
            await open_form(alice, name)

            async def is_of(name: str = name) -> bool:
                return (await homes(stage)).get(ALICE, {}).get(MADE_AHEAD) == name

            await eventually(is_of, f"one home, for {name}")
            assert len(await annotations(stage)) == 1
        await open_form(bob, on_gpu)
        await until_made(stage, BOB, node=with_gpu)  # the operator has come to the one before
        assert SELECTED_NODE not in (await homes(stage))[ALICE]


async def test_no_home_for_a_desktop_that_cannot_start(
    stage: Stage, template: str, tmp_path: Path
) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(f"users: {{{ALICE}: {{sessions: 0}}}}\n")
    without = await stage.template_named(f"{stage.namespace}-none", persistence={"enabled": False})
    own = await stage.template_named(f"{stage.namespace}-own", persistence={"scope": "Session"})
    async with open_gateway_stage(stage, tmp_path, limits_file=limits) as gateway:
        alice, bob = await gateway.log_in(ALICE), await gateway.log_in(BOB)
        for browser, name in ((alice, template), (bob, without), (bob, own), (bob, template)):
            await open_form(browser, name)
        await until_made(stage, BOB)
        (claim,) = await stage.all(CLAIMS)
        assert claim["metadata"]["annotations"][MADE_AHEAD] == template


@pytest.mark.parametrize("ends_first", [False, True])
async def test_home_of_a_started_desktop_is_kept(
    stage: Stage, template: str, ends_first: bool
) -> None:
    """The gateway and the operator make it at the same time: the pod is there, and so is the
    annotation.
    """
    claim = home_claim_name(session_name="", user=ALICE, template=template, retain=True)

    def is_taken(found: Object) -> bool:
        return MADE_AHEAD not in found["metadata"]["annotations"]

    async with stage.operator():
        await stage.start("first", template)
    await stage.patch(
        CLAIMS, claim, {"metadata": {"annotations": {MADE_AHEAD: template, LAST_USED: None}}}
    )
    if ends_first:
        await stage.delete(SESSIONS, "first")
    async with stage.operator():
        await stage.until(CLAIMS, claim, is_taken, "the annotation is taken away")
        if ends_first:
            await stage.gone(SESSIONS, "first")
    assert is_taken(await stage.until(CLAIMS, claim))
