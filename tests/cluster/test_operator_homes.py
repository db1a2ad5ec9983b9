"""Homes against a real API server; the test is the kubelet and the provisioner."""

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import Object, Stage, condition
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


async def test_change_of_scope_keeps_existing_homes(stage: Stage) -> None:
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
        await stage.end("first")
        await stage.session("again", template)
        assert await home_of(stage, "again") == old


async def test_last_use_of_a_home_is_noted(stage: Stage) -> None:
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
        await stage.end("first")
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


async def test_pod_is_deleted_when_a_command_takes_its_home(stage: Stage) -> None:
    """The operator hears of the home only when it is about to make it, beside the pod."""
    template = await stage.template()
    claim = home_claim_name(session_name="", user=ALICE, template=template, retain=True)

    async def import_first(request: Request) -> None:
        if request.path.endswith("/persistentvolumeclaims"):
            stage.proxy.meanwhile = None
            await stage.api.create(CLAIMS, imported(claim), namespace=stage.namespace, into=dict)

    async with stage.operator():
        stage.proxy.meanwhile = import_first
        session = await stage.session("first", template)
        waiting = await stage.reach("first", "Pending", f"The home '{claim}' is in use by `vdi home import`")
        assert condition(waiting, "Admitted")["reason"] == "HomeInUse"
        await stage.podless(session)
        await stage.patch(CLAIMS, claim, {"metadata": {"annotations": {"vdi.kasm.io/copying": None}}})
        assert await home_of(stage, "first") == claim
