"""Start, drift, deletion and restart of a session against a real API server; the test is the
kubelet.
"""

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import CHILDREN, Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import ROUTES, SESSIONS, TEMPLATES
from vdi.kube.resource import CLAIMS, PODS, SECRETS, SERVICES
from vdi.session.naming import MANAGED_BY, home_claim_name

pytestmark = pytest.mark.timeout(150)


async def test_session_becomes_a_desktop_within_its_budget(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finalizer, Secret, Service, route, home, pod, and one status."""
    # A quick start, however busy this machine is.
    monkeypatch.setattr("vdi.operator.status.START_PAUSE", 60.0)
    template = await stage.template()
    async with stage.operator():
        session = await stage.session("alice-desktop", template)
        pod = await stage.pod_of(session)
        await stage.make_ready(pod)
        running = await stage.reach("alice-desktop", "Running")
        writes = [f"{write.method} {write.path}" for write in stage.proxy.writes()]
        of_template = [write for write in writes if "/vditemplates/" in write]
        assert len(of_template) <= 1, "its status, once for all sessions"
        assert len(writes) - len(of_template) == 7, writes
        assert stage.proxy.reads() == []
    for name, kind in CHILDREN.items():
        owned = await stage.owned(kind, session)
        assert len(owned) == (0 if name == "home" else 1), name
    status = running["status"]
    assert status["url"] == f"https://{stage.host('alice-desktop')}"
    assert status["startTime"] == pod["metadata"]["creationTimestamp"]
    assert status["podName"] == "alice-desktop"
    assert status["templateRevision"] == "1"
    assert "message" not in status
    assert condition(running, "Ready")["status"] == "True"
    home = home_claim_name(
        session_name="", user="alice@example.com", template=template, retain=True
    )
    claim = await stage.get(CLAIMS, home)
    assert claim and "ownerReferences" not in claim["metadata"]


async def test_session_deleted_before_its_finalizer_leaves_nothing(
    stage: Stage, template: str
) -> None:
    """The first children are sent beside the finalizer, so the session may be gone by then."""

    async def delete(request: Request) -> None:
        if request.method == "PATCH" and request.path.endswith("/vdisessions/alice-desktop"):
            stage.proxy.meanwhile = None
            await stage.delete(SESSIONS, "alice-desktop")

    def has_sent_all() -> bool:
        children = [write for write in stage.proxy.writes() if write.method == "POST"]
        return len(children) == len(CHILDREN)

    stage.proxy.meanwhile = delete
    async with stage.operator():
        session = await stage.session("alice-desktop", template)
        await eventually(has_sent_all, "all children are created")
        await stage.gone(SESSIONS, "alice-desktop")
        await stage.childless(session)
        await stage.start("alice-desktop", template)


async def test_deleted_child_comes_back(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start("alice-desktop", template)
        for name in ("service", "secret", "route", "pod"):
            (old,) = await stage.owned(CHILDREN[name], session)
            await stage.delete(CHILDREN[name], old["metadata"]["name"], grace_seconds=0)

            async def replaced(name: str = name, uid: str = old["metadata"]["uid"]) -> bool:
                return any(
                    one["metadata"]["uid"] != uid
                    for one in await stage.owned(CHILDREN[name], session)
                )

            await eventually(replaced, f"{name} is made again")
        await stage.run("alice-desktop")


async def test_edited_child_is_repaired(stage: Stage, template: str) -> None:
    async with stage.operator():
        await stage.start("alice-desktop", template)
        await stage.patch(SERVICES, "alice-desktop", {"spec": {"selector": {"app": "other"}}})
        wrong = {
            "spec": {
                "routes": [{"kind": "Rule", "match": "Host(`evil.example.com`)", "services": []}]
            }
        }
        await stage.patch(ROUTES, "alice-desktop", wrong)
        await stage.patch(
            PODS, "alice-desktop", {"metadata": {"labels": {"vdi.kasm.io/session": "other"}}}
        )
        await stage.patch(
            SECRETS,
            "alice-desktop-auth",
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
        )

        label, rule = "vdi.kasm.io/session", f"Host(`{stage.host('alice-desktop')}`)"
        for kind, name, is_right in (
            (
                SERVICES,
                "alice-desktop",
                lambda service: service["spec"]["selector"].get(label) == "alice-desktop",
            ),
            (ROUTES, "alice-desktop", lambda route: route["spec"]["routes"][0]["match"] == rule),
            (
                PODS,
                "alice-desktop",
                lambda pod: pod["metadata"]["labels"].get(label) == "alice-desktop",
            ),
            (
                SECRETS,
                "alice-desktop-auth",
                lambda secret: MANAGED_BY.items() <= secret["metadata"]["labels"].items(),
            ),
        ):
            await stage.until(kind, name, is_right, "is as it was")
        await stage.reach("alice-desktop", "Running")


@pytest.mark.parametrize("suspended", [False, True])
async def test_unchanged_session_costs_no_request(
    stage: Stage, template: str, suspended: bool
) -> None:
    async with stage.operator():
        session = await stage.start("alice-desktop", template)
        if suspended:
            await stage.suspend("alice-desktop")
            await stage.reach("alice-desktop", "Suspended")
            await stage.podless(session)
    async with stage.operator():
        first = await stage.get(SESSIONS, "alice-desktop")
        # Once bob's runs, the operator has looked at alice's as well.
        await stage.start("bob-desktop", template, user="bob@example.com")
        assert [write.path for write in stage.proxy.writes() if "alice" in write.path] == []
        assert stage.proxy.reads() == []
        assert await stage.get(SESSIONS, "alice-desktop") == first


@pytest.mark.parametrize("retain", [True, False])
async def test_deletion_leaves_nothing_but_a_retained_home(
    stage: Stage, template: str, retain: bool
) -> None:
    async with stage.operator():
        session = await stage.start("alice-desktop", template, persistence={"retain": retain})
        await stage.end("alice-desktop")
        # By the operator itself: the garbage collector may not know the kind yet.
        deleted = {
            write.path.split("/")[-2] for write in stage.proxy.writes() if write.method == "DELETE"
        }
        assert deleted == {"pods", "services", "secrets", "ingressroutes"}
        await stage.childless(session)
    if retain:
        assert len(await stage.all(CLAIMS)) == 1
    else:
        await stage.gone(CLAIMS, "alice-desktop-home")


async def test_session_stays_until_its_node_has_stopped_the_pod(
    stage: Stage, template: str
) -> None:
    async with stage.operator():
        session = await stage.session("alice-desktop", template)
        pod = await stage.pod_of(session)
        await stage.bind(pod, "far-away")
        await stage.make_ready(pod)
        assert (await stage.reach("alice-desktop", "Running"))["status"]["nodeName"] == "far-away"
        await stage.delete(SESSIONS, "alice-desktop")
        leaving = await stage.reach(
            "alice-desktop", "Terminating", "Waiting until node far-away has stopped"
        )
        assert leaving["metadata"]["finalizers"] == ["vdi.kasm.io/session-cleanup"]
        pod = await stage.until(
            PODS,
            "alice-desktop",
            lambda pod: "deletionGracePeriodSeconds" in pod["metadata"],
            "it is told to stop",
        )
        assert pod["metadata"]["deletionGracePeriodSeconds"] == 3
        await stage.delete(PODS, "alice-desktop", grace_seconds=0)
        await stage.gone(SESSIONS, "alice-desktop")
        await stage.childless(session)


async def test_edited_template_counts_from_the_next_start(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start("alice-desktop", template)
        before = await stage.pod_of(session)
        await stage.patch(
            TEMPLATES, template, {"spec": {"image": "registry.example.com/desktop:2"}}
        )

        def is_noticed(session: Object) -> bool:
            status = session["status"]
            found = (
                status["phase"],
                status["templateRevision"],
                condition(session, "TemplateFound")["reason"],
            )
            return found == ("Running", "1", "NewerRevision")

        await stage.until(
            SESSIONS, "alice-desktop", is_noticed, "status tells of the newer template"
        )
        assert (await stage.pod_of(session))["metadata"]["uid"] == before["metadata"]["uid"]
        await stage.delete(PODS, "alice-desktop", grace_seconds=0)
        renewed = await stage.next_pod(session, before)
        assert renewed["spec"]["containers"][0]["image"] == "registry.example.com/desktop:2"
        assert (await stage.run("alice-desktop"))["status"]["templateRevision"] == "2"


async def test_longest_names_of_kubernetes_work(stage: Stage) -> None:
    template = await stage.template_named(f"{stage.namespace}-" + "t." * 50 + "x")
    name = "alice." + "d" * 60 + "." + "e" * 180
    async with stage.operator():
        session = await stage.start(name, template)
        host = session["status"]["url"].removeprefix("https://").split(".")[0]
        assert host.startswith("alice-ddd") and len(host) <= 63
        await stage.end(name)
        await stage.childless(session)
