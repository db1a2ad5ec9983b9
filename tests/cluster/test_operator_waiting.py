"""Sessions that cannot start yet say why, and start by themselves when they can. Against a real API
server.
"""

import asyncio

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import ROUTES, TEMPLATES
from vdi.kube.resource import CLAIMS, PODS, SECRETS, SERVICES
from vdi.session.naming import MANAGED_BY

pytestmark = pytest.mark.timeout(150)


def reason(session: Object, kind: str) -> str:
    return str(condition(session, kind)["reason"])


async def expect_no_children(stage: Stage, session: Object) -> None:
    for kind in (PODS, SERVICES, SECRETS, ROUTES, CLAIMS):
        assert await stage.owned(kind, session) == []


async def test_session_waits_for_its_template(stage: Stage) -> None:
    template = f"{stage.namespace}-late"
    async with stage.operator():
        session = await stage.session("alice-desktop", template)
        waiting = await stage.reach(
            "alice-desktop", "Pending", f"There is no template '{template}'"
        )
        assert reason(waiting, "TemplateFound") == "TemplateNotFound"
        await expect_no_children(stage, session)
        await stage.template_named(template)
        await stage.run("alice-desktop")


@pytest.mark.parametrize(
    ("section", "wanted", "allowed", "most"),
    [
        ("resources", {"memory": "8Gi"}, "maxMemory", "4Gi"),
        ("persistence", {"size": "500Ti"}, "maxSize", "10Gi"),
    ],
)
async def test_session_over_a_limit_fails_until_that_is_fixed(
    stage: Stage, section: str, wanted: dict[str, str], allowed: str, most: str
) -> None:
    template, ((field, value),) = await stage.template(), wanted.items()
    async with stage.operator():
        session = await stage.session("alice-desktop", template, **{section: wanted})
        words = (
            f"spec.{section}.{field}: {value} is more than the {most} that template '{template}'"
            " allows"
        )
        refused = await stage.reach("alice-desktop", "Failed", words)
        assert reason(refused, "Admitted") == "OverLimit"
        await expect_no_children(stage, session)
        await stage.event("OverLimit", words)
        await stage.patch(TEMPLATES, template, {"spec": {section: {allowed: value}}})
        await stage.run("alice-desktop")


async def test_sessions_of_one_moment_never_share_a_home(stage: Stage, template: str) -> None:
    names = [f"desktop-{number}" for number in range(6)]
    async with stage.operator():
        await asyncio.gather(*(stage.session(name, template) for name in names))
        while names:

            async def one_pod() -> Object | None:
                pods = await stage.all(PODS)
                assert len(pods) <= 1, [pod["metadata"]["name"] for pod in pods]
                return pods[0] if pods else None

            pod = await eventually(one_pod, "one of them starts")
            await stage.run(pod["metadata"]["name"])
            await stage.end(pod["metadata"]["name"])
            names.remove(pod["metadata"]["name"])


async def test_foreign_object_is_never_adopted(stage: Stage, template: str) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "alice-desktop-auth"},
        "stringData": {"k": "v"},
    }
    theirs = await stage.api.create(SECRETS, theirs, namespace=stage.namespace, into=dict)
    async with stage.operator():
        await stage.session("alice-desktop", template)
        words = "The Secret 'alice-desktop-auth' already exists and belongs to someone else"
        await stage.reach("alice-desktop", "Creating", words)
        assert await stage.get(SECRETS, "alice-desktop-auth") == theirs


async def test_foreign_claim_is_never_mounted(
    stage: Stage, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is unknown to us, the other is in the operator's cache."""
    monkeypatch.setattr("vdi.operator.controllers.session._REFUSED_AGAIN_SECONDS", 1.0)
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    teams: dict[str, dict[str, str]] = {"red": {}, "blue": MANAGED_BY}
    for team, labels in teams.items():
        meta = {"name": f"{team}-home", "labels": labels}
        theirs = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": meta,
            "spec": spec,
        }
        await stage.api.create(CLAIMS, theirs, namespace=stage.namespace, into=dict)
    async with stage.operator():
        for team in teams:
            await stage.session(team, template, persistence={"retain": False})
        for team in teams:
            words = (
                f"The PersistentVolumeClaim '{team}-home' already exists and belongs to someone"
                " else"
            )
            refused = await stage.reach(team, "Failed", words)
            assert reason(refused, "HomeBound") == "NameTaken"
            assert await stage.get(PODS, team) is None
            await stage.delete(CLAIMS, f"{team}-home")
        for team in teams:
            await stage.run(team)


async def test_pod_security_violation_fails_with_its_reason(stage: Stage) -> None:
    nfs = {"name": "nfs", "mountPath": "/nfs", "nfs": {"server": "10.0.0.9", "path": "/export"}}
    template = await stage.template(volumes=[nfs])
    await stage.restrict()
    async with stage.operator():
        await stage.session("alice-desktop", template)
        refused = await stage.reach(
            "alice-desktop", "Failed", "violates the namespace's Pod Security level"
        )
        assert reason(refused, "Admitted") == "PodSecurity"


async def test_operator_waits_for_missing_crds(stage: Stage, template: str) -> None:
    await stage.session("alice-desktop", template)
    stage.proxy.missing = {"vdisessions", "ingressroutes"}

    def has_asked() -> bool:
        return any("/vdisessions" in request.path for request in stage.proxy.passed)

    async def install_later() -> None:
        await eventually(has_asked, "the operator has asked for the kind")
        stage.proxy.missing = set()

    later = asyncio.create_task(install_later())
    async with stage.operator():
        await later
        await stage.run("alice-desktop")
