"""Homes against a real API server; the test is the kubelet and the provisioner."""

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import Stage, condition
from vdi.kube.resource import CLAIMS, PODS
from vdi.session.homes import LAST_USED
from vdi.session.naming import MANAGED_BY, home_claim_name

pytestmark = pytest.mark.timeout(150)
ALICE = "alice@example.com"


async def test_last_use_of_a_home_is_noted(stage: Stage, template: str) -> None:

    async def last_used() -> str:
        (home,) = await stage.all(CLAIMS)
        return str(home["metadata"]["annotations"].get(LAST_USED, ""))

    async with stage.operator():
        await stage.start("first", template)
        await stage.suspend("first")
        await stage.reach("first", "Suspended")
        assert await last_used() == ""  # its creation says enough
        await stage.suspend("first", suspended=False)
        await stage.run("first")
    (home,) = await stage.all(CLAIMS)
    old = "2026-11-20T08:00:00Z"
    await stage.patch(
        CLAIMS, home["metadata"]["name"], {"metadata": {"annotations": {LAST_USED: old}}}
    )
    async with stage.operator():
        await stage.end("first")
    assert await last_used() > old


async def test_pod_is_deleted_when_a_command_takes_its_home(stage: Stage, template: str) -> None:
    """The operator hears of the home only when it is about to make it, beside the pod."""
    claim = home_claim_name(session_name="", user=ALICE, template=template, retain=True)
    imported = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim,
            "labels": MANAGED_BY,
            "annotations": {"vdi.kasm.io/user": ALICE, "vdi.kasm.io/copying": "vdi home import"},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }

    async def import_first(request: Request) -> None:
        if request.path.endswith("/persistentvolumeclaims"):
            stage.proxy.meanwhile = None
            await stage.api.create(CLAIMS, imported, namespace=stage.namespace, into=dict)

    async with stage.operator():
        stage.proxy.meanwhile = import_first
        session = await stage.session("first", template)
        waiting = await stage.reach(
            "first", "Pending", f"The home '{claim}' is in use by `vdi home import`"
        )
        assert condition(waiting, "Admitted")["reason"] == "HomeInUse"
        await stage.podless(session)
        await stage.patch(
            CLAIMS, claim, {"metadata": {"annotations": {"vdi.kasm.io/copying": None}}}
        )
        (pod,) = await stage.owned(PODS, await stage.run("first"))
        (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "home")
        assert volume["persistentVolumeClaim"]["claimName"] == claim
