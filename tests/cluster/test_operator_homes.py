"""Scopes and access modes of homes. Against a real API server; the test is the kubelet and the provisioner."""

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.resource import CLAIMS, PODS
from vdi.session.homes import LAST_USED
from vdi.session.naming import home_claim_name, user_home_claim_name

pytestmark = pytest.mark.timeout(150)
ALICE = "alice@example.com"


async def home_of(stage: Stage, name: str) -> str:
    """The claim that this session's pod mounts."""
    (pod,) = await stage.owned(PODS, await stage.run(name))
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "home")
    return str(volume["persistentVolumeClaim"]["claimName"])


async def end(stage: Stage, name: str) -> None:
    await stage.delete(SESSIONS, name)
    await stage.gone(SESSIONS, name)


async def two_templates(stage: Stage, **persistence: str) -> tuple[str, str]:
    names = f"{stage.namespace}-cad", f"{stage.namespace}-office"
    for name in names:
        await stage.template_named(name, persistence={"scope": "User", **persistence})
    return names


async def test_one_home_for_all_templates_and_one_desktop_at_a_time(stage: Stage) -> None:
    cad, office = await two_templates(stage)
    async with stage.operator():
        await stage.session("first", cad)
        assert await home_of(stage, "first") == user_home_claim_name(ALICE)
        await stage.session("second", office)
        waiting = await stage.reach("second", "Pending", f"The files of {ALICE} are in use by the desktop 'first'")
        assert condition(waiting, "Admitted")["reason"] == "HomeInUse"
        await stage.session("other", office, user="bob@example.com")
        assert await home_of(stage, "other") == user_home_claim_name("bob@example.com")
        await end(stage, "first")
        assert await home_of(stage, "second") == user_home_claim_name(ALICE)
        assert (await stage.reach("second", "Running"))["status"]["homeClaim"] == user_home_claim_name(ALICE)
    claims = {claim["metadata"]["name"]: claim for claim in await stage.all(CLAIMS)}
    assert set(claims) == {user_home_claim_name(ALICE), user_home_claim_name("bob@example.com")}
    annotations = claims[user_home_claim_name(ALICE)]["metadata"]["annotations"]
    assert annotations["vdi.kasm.io/user"] == ALICE and "vdi.kasm.io/template" not in annotations


async def test_a_change_of_the_scope_takes_no_files_away(stage: Stage) -> None:
    """A desktop that runs goes on, and who has a home of the template keeps it; who has none gets one of the user."""
    template = await stage.template()
    old = home_claim_name(session_name="", user=ALICE, template=template, retain=True)
    async with stage.operator():
        await stage.session("first", template)
        assert await home_of(stage, "first") == old
        await stage.api.patch(TEMPLATES, template, {"spec": {"persistence": {"scope": "User"}}}, into=dict)
        await stage.session("bobs", template, user="bob@example.com")
        assert await home_of(stage, "bobs") == user_home_claim_name("bob@example.com")
        assert (await stage.reach("first", "Running"))["status"]["homeClaim"] == old
        await end(stage, "first")
        await stage.session("again", template)
        assert await home_of(stage, "again") == old


async def test_when_a_home_was_last_used_is_noted_when_its_desktop_stops(stage: Stage) -> None:
    template = await stage.template()

    async def last_used() -> str:
        (home,) = await stage.all(CLAIMS)
        return str(home["metadata"]["annotations"].get(LAST_USED, ""))

    async with stage.operator():
        await stage.session("first", template)
        await stage.run("first")
        await stage.patch(SESSIONS, "first", {"spec": {"suspended": True}})
        await stage.reach("first", "Suspended")
        assert await last_used() == ""  # its creation says enough
        await stage.patch(SESSIONS, "first", {"spec": {"suspended": False}})
        await stage.run("first")
    (home,) = await stage.all(CLAIMS)
    old = "2026-11-20T08:00:00Z"
    await stage.patch(CLAIMS, home["metadata"]["name"], {"metadata": {"annotations": {LAST_USED: old}}})
    async with stage.operator():
        await end(stage, "first")
    assert await last_used() > old


def imported(claim: str) -> Object:
    """The home as `vdi home import` makes it."""
    annotations = {"vdi.kasm.io/user": ALICE, "vdi.kasm.io/copying": "vdi home import"}
    labels = {"app.kubernetes.io/managed-by": "vdi-operator"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "labels": labels, "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


async def waits_for_the_command(stage: Stage, claim: str) -> None:
    """`first` says so."""
    waiting = await stage.reach("first", "Pending", f"The home '{claim}' is in use by `vdi home import`")
    assert condition(waiting, "Admitted")["reason"] == "HomeInUse"


async def starts_once_it_is_filled(stage: Stage, claim: str) -> None:
    await stage.patch(CLAIMS, claim, {"metadata": {"annotations": {"vdi.kasm.io/copying": None}}})
    assert await home_of(stage, "first") == claim


async def test_a_desktop_waits_until_a_command_has_filled_its_home(stage: Stage) -> None:
    template = await stage.template()
    claim = home_claim_name(session_name="", user=ALICE, template=template, retain=True)
    await stage.api.create(CLAIMS, imported(claim), namespace=stage.namespace, into=dict)
    async with stage.operator():
        await stage.session("first", template)
        await waits_for_the_command(stage, claim)
        assert await stage.all(PODS) == []
        await starts_once_it_is_filled(stage, claim)


async def test_a_desktop_that_is_made_while_a_command_marks_its_home_goes_again(stage: Stage) -> None:
    """The operator hears of the home only when it is about to make it, beside the pod."""
    template = await stage.template()
    claim = home_claim_name(session_name="", user=ALICE, template=template, retain=True)

    async def import_first(request: Request) -> None:
        if request.path.endswith("/persistentvolumeclaims"):
            stage.proxy.meanwhile = None
            await stage.api.create(CLAIMS, imported(claim), namespace=stage.namespace, into=dict)

    async def has_no_pod() -> bool:
        return await stage.all(PODS) == []

    async with stage.operator():
        stage.proxy.meanwhile = import_first
        await stage.session("first", template)
        await waits_for_the_command(stage, claim)
        await eventually(has_no_pod, "its pod goes")
        await starts_once_it_is_filled(stage, claim)
