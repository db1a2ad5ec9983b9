"""Sessions that cannot start yet say why, and start by themselves when they can. Against a real API server."""

import asyncio

import msgspec
import pytest

from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import ROUTES, SESSIONS, TEMPLATES
from vdi.kube.resource import CLAIMS, EVENTS, NAMESPACES, PODS, SECRETS, SERVICES, Resource
from vdi.session.naming import MANAGED_BY

QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")


pytestmark = pytest.mark.timeout(150)


def reason(session: Object, kind: str) -> str:
    return str(condition(session, kind)["reason"])


async def expect_no_children(stage: Stage, session: Object) -> None:
    for kind in (PODS, SERVICES, SECRETS, ROUTES, CLAIMS):
        assert await stage.owned(kind, session) == []


async def test_missing_template_is_said_and_waited_for(stage: Stage) -> None:
    template = f"{stage.namespace}-late"
    async with stage.operator():
        session = await stage.session("alice-desktop", template)
        waiting = await stage.reach("alice-desktop", "Pending", f"There is no template '{template}'")
        assert reason(waiting, "TemplateFound") == "TemplateNotFound"
        await expect_no_children(stage, session)
        await stage.template_named(template)
        await stage.run("alice-desktop")


async def test_too_much_is_refused_in_words_until_somebody_fixes_it(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        session = await stage.session("alice-desktop", template, resources={"memory": "8Gi"})
        words = f"spec.resources.memory: 8Gi is more than the 4Gi that template '{template}' allows"
        refused = await stage.reach("alice-desktop", "Failed", words)
        assert reason(refused, "Admitted") == "OverLimit"
        await expect_no_children(stage, session)

        async def reported() -> bool:
            return any(one["reason"] == "OverLimit" and words in one["note"] for one in await stage.all(EVENTS))

        await eventually(reported, "an Event says it too")
        await stage.api.patch(TEMPLATES, template, {"spec": {"resources": {"maxMemory": "8Gi"}}}, into=dict)
        await stage.run("alice-desktop")


async def test_a_home_beyond_the_template_s_maximum_is_not_made(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        session = await stage.session("alice-desktop", template, persistence={"size": "500Ti"})
        words = f"spec.persistence.size: 500Ti is more than the 10Gi that template '{template}' allows"
        refused = await stage.reach("alice-desktop", "Failed", words)
        assert reason(refused, "Admitted") == "OverLimit"
        await expect_no_children(stage, session)
        await stage.api.patch(TEMPLATES, template, {"spec": {"persistence": {"maxSize": "500Ti"}}}, into=dict)
        await stage.run("alice-desktop")


async def test_second_session_waits_for_the_home_and_takes_it_when_it_is_free(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        await stage.session("first", template)
        await stage.run("first")
        second = await stage.session("second", template)
        waiting = await stage.reach("second", "Pending", "are in use by the desktop 'first'")
        assert reason(waiting, "Admitted") == "HomeInUse"
        await expect_no_children(stage, second)
        await stage.session("other", template, user="bob@example.com")
        await stage.run("other")
        await stage.delete(SESSIONS, "first")
        await stage.run("second")
    assert len(await stage.all(CLAIMS)) == 2


async def test_sessions_that_come_at_once_never_share_a_home(stage: Stage) -> None:
    template = await stage.template()
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
            await stage.delete(SESSIONS, pod["metadata"]["name"])
            await stage.gone(SESSIONS, pod["metadata"]["name"])
            names.remove(pod["metadata"]["name"])


async def test_object_of_somebody_else_is_left_alone(stage: Stage) -> None:
    template = await stage.template()
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "alice-desktop-auth"},
        "stringData": {"k": "v"},
    }
    theirs = await stage.api.create(SECRETS, theirs, namespace=stage.namespace, into=dict)
    async with stage.operator():
        await stage.session("alice-desktop", template)

        async def reported() -> Object | None:
            session = await stage.get(SESSIONS, "alice-desktop")
            message = (session or {}).get("status", {}).get("message", "")
            return (
                session
                if "The Secret 'alice-desktop-auth' already exists and belongs to someone else" in message
                else None
            )

        await eventually(reported, "the status says what is in the way")
        assert await stage.get(SECRETS, "alice-desktop-auth") == theirs


async def test_a_claim_of_somebody_else_is_never_mounted(stage: Stage) -> None:
    """One is unknown to us, the other is in the operator's cache."""
    template = await stage.template()
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    teams: dict[str, dict[str, str]] = {"red": {}, "blue": MANAGED_BY}
    for team, labels in teams.items():
        meta = {"name": f"{team}-home", "labels": labels}
        theirs = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
        await stage.api.create(CLAIMS, theirs, namespace=stage.namespace, into=dict)
    async with stage.operator():
        for team in teams:
            await stage.session(team, template, persistence={"retain": False})
        for team in teams:
            words = f"The PersistentVolumeClaim '{team}-home' already exists and belongs to someone else"
            refused = await stage.reach(team, "Failed", words)
            assert reason(refused, "HomeBound") == "NameTaken"
            assert await stage.get(PODS, team) is None
            await stage.delete(CLAIMS, f"{team}-home")
        for team in teams:
            await stage.run(team)


async def test_what_the_namespace_forbids_is_said_in_words(stage: Stage) -> None:
    nfs = {"name": "nfs", "mountPath": "/nfs", "nfs": {"server": "10.0.0.9", "path": "/export"}}
    template = await stage.template(volumes=[nfs])
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await stage.api.patch(NAMESPACES, stage.namespace, labels, into=msgspec.Raw)
    async with stage.operator():
        await stage.session("alice-desktop", template)
        refused = await stage.reach("alice-desktop", "Failed", "violates the namespace's Pod Security level")
        assert reason(refused, "Admitted") == "PodSecurity"
        await stage.delete(SESSIONS, "alice-desktop")
        await stage.gone(SESSIONS, "alice-desktop")


async def test_ordinary_desktop_is_allowed_where_pod_security_is_restricted(stage: Stage) -> None:
    template = await stage.template()
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await stage.api.patch(NAMESPACES, stage.namespace, labels, into=msgspec.Raw)
    async with stage.operator():
        await stage.session("alice-desktop", template)
        await stage.run("alice-desktop")


async def test_full_quota_is_waited_for(stage: Stage) -> None:
    template = await stage.template()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
    quota = await stage.api.create(QUOTAS, quota, namespace=stage.namespace, into=dict)

    async def counted() -> bool:
        return "used" in ((await stage.get(QUOTAS, "q")) or {}).get("status", {})

    await eventually(counted, "the quota is in force")
    async with stage.operator():
        await stage.session("alice-desktop", template)
        waiting = await stage.reach("alice-desktop", "Pending", "exceeds the namespace's quota: exceeded quota: q")
        assert reason(waiting, "Admitted") == "QuotaExceeded"


async def test_operator_waits_for_kinds_that_are_not_installed_yet(stage: Stage) -> None:
    template = await stage.template()
    await stage.session("alice-desktop", template)
    stage.proxy.missing = {"vdisessions", "ingressroutes"}

    async def install_later() -> None:
        async def asked() -> bool:
            return any("/vdisessions" in path for path in stage.proxy.refused)

        await eventually(asked, "the operator has asked for the kind")
        stage.proxy.missing = set()

    later = asyncio.create_task(install_later())
    async with stage.operator():
        await later
        await stage.run("alice-desktop")
