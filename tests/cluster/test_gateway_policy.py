"""The chart's admission policies on a real API server, tried as people without any privilege."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.builders import a_session
from support.waiting import wait_until
from tools.generate import chart
from tools.generate.chart_render import render
from vdi.api.template import Scheme
from vdi.session.children import build_route
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import Identity

ALICE, BOB, PORTAL = "alice@example.com", "bob@example.com", "portal@example.com"
OPERATOR = "system:serviceaccount:vdi-system:vdi-operator"
POLICIES = tuple(
    f"{name}.vdi-system.vdi"
    for name in ("vdi-who-may-name-whom", "vdi-templates-for-whom", "vdi-routes-of-desktops")
)
Object = dict[str, Any]
Result = subprocess.CompletedProcess[str]
HOST = "alice-desktop-5tq2mzk4.vdi.localhost"
BEHIND_GATEWAY = ClusterSettings(edge_middleware="vdi-edge")


class People:
    """kubectl as administrator, or as somebody else."""

    def __init__(self, kubectl: list[str], namespace: str) -> None:
        self._kubectl, self.namespace = kubectl, namespace

    def run(
        self, *words: str, as_: str = "", groups: tuple[str, ...] = (), given: Object | None = None
    ) -> Result:
        who = (
            ["--as", as_, *(word for group in groups for word in ("--as-group", group))]
            if as_
            else []
        )
        command = [*self._kubectl, *who, "--namespace", self.namespace, *words]
        text = json.dumps(given) if given else None
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=30, check=False
        )

    def admin(self, *words: str, given: Object | None = None) -> str:
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(
        self, user: str, *, as_: str = "", groups: tuple[str, ...] = (), name: str = "", **spec: Any
    ) -> Result:
        """Ask for a session for `user`; a dry run unless it has a name."""
        metadata = {"name": name or "dry", "namespace": self.namespace}
        body = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "metadata": metadata}
        body["spec"] = {"user": user, "template": f"{self.namespace}-open"} | spec
        dry = [] if name else ["--dry-run=server"]
        return self.run("create", *dry, "-f", "-", as_=as_, groups=groups, given=body)

    def patch(
        self, name: str, spec: Object | None = None, *, metadata: Object | None = None, as_: str
    ) -> Result:
        body = json.dumps({"spec": spec or {}, "metadata": metadata or {}})
        return self.run("patch", "vdi", name, "--type=merge", "-p", body, as_=as_)


def policies() -> list[Object]:
    """As the chart makes them with its own values."""
    made = [each for each in yaml.safe_load_all(chart.MANIFEST.read_text()) if each]
    return [each for each in made if each["kind"].startswith("ValidatingAdmissionPolicy")]


def role(
    verbs: list[str], *subjects: Object, of: str = "vdisessions.vdi.kasm.io"
) -> Iterator[Object]:
    name = f"{'-'.join(verbs)}-{of.replace('/', '-')}"
    rbac = "rbac.authorization.k8s.io"
    resource, _, group = of.partition(".")
    rule = {"apiGroups": [group], "resources": [resource], "verbs": verbs}
    yield {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name}, "rules": [rule]}
    reference = {"apiGroup": rbac, "kind": "Role", "name": name}
    binding = {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": {"name": name}}
    yield binding | {"roleRef": reference, "subjects": list(subjects)}


def user(name: str) -> Object:
    return {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}


@pytest.fixture(scope="module")
def everyone(kubectl: list[str], shared_namespace: str) -> Iterator[People]:
    """Alice, Bob and a ServiceAccount may create and change sessions; the portal's account may
    assign them, too.
    """
    made = People(kubectl, shared_namespace)
    robot = {"kind": "ServiceAccount", "name": "default", "namespace": shared_namespace}
    for body in (
        *role(
            ["get", "create", "patch", "update", "delete"],
            user(ALICE),
            user(BOB),
            user(PORTAL),
            robot,
        ),
        *role(["assign"], user(PORTAL)),
        *role(["get", "patch"], user(OPERATOR)),
        *role(["patch"], user(OPERATOR), of="vdisessions/status.vdi.kasm.io"),
        *role(["create", "patch"], user(OPERATOR), user(BOB), of="ingressroutes.traefik.io"),
    ):
        made.admin("create", "-f", "-", given=body)
    for body in policies():
        made.admin("apply", "--server-side", "-f", "-", given=body)
    try:
        template(made, "open")
        wait_until("the policy is in force", lambda: made.create(BOB, as_=ALICE).returncode != 0)
        wait_until(
            "the policy knows the templates' kind",
            lambda: made.create(ALICE, as_=ALICE).returncode == 0,
        )
        yield made
    finally:
        for body in policies():
            made.admin("delete", body["kind"], body["metadata"]["name"])
        made.admin("delete", "vditemplate", "-l", f"test={shared_namespace}")


@pytest.fixture
def people(everyone: People) -> Iterator[People]:
    """They have no sessions: it takes seconds until policies are in force, and a moment until a
    session is gone.
    """
    yield everyone
    everyone.admin("delete", "vdi", "--all", "--timeout=20s")


def template(people: People, name: str, **spec: Any) -> str:
    full = f"{people.namespace}-{name}"
    metadata = {"name": full, "labels": {"test": people.namespace}}
    body = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDITemplate", "metadata": metadata}
    people.admin("create", "-f", "-", given=body | {"spec": {"image": "i"} | spec})
    return full


def refused(done: Result, *words: str) -> bool:
    assert done.returncode != 0, f"let through: {done.stdout}"
    assert "ValidatingAdmissionPolicy" in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return True


def let_through(done: Result) -> bool:
    assert done.returncode == 0, done.stderr
    return True


def test_session_for_another_user_is_refused(people: People) -> None:
    let_through(people.create(ALICE, as_=ALICE))
    said = (
        f"spec.user: {BOB}",
        f"{ALICE} may not",
        f"allowed: {BOB}",
        "verb assign",
        people.namespace,
    )
    refused(people.create(BOB, as_=ALICE), *said)
    refused(people.create("Alice@example.com", as_=ALICE))
    robot = f"system:serviceaccount:{people.namespace}:default"
    refused(people.create(ALICE, as_=robot), f"spec.user: {ALICE}", robot)


def test_portal_and_administrators_create_sessions_for_anyone(people: People) -> None:
    let_through(people.create(BOB, as_=PORTAL))
    let_through(people.create(BOB))  # the kubeconfig's own account, of system:masters
    words = (
        "create",
        "clusterrolebinding",
        people.namespace,
        "--clusterrole=cluster-admin",
        "--user=root@example.com",
    )
    people.admin(*words)
    try:
        wait_until(
            "the binding counts", lambda: people.create(BOB, as_="root@example.com").returncode == 0
        )
    finally:
        people.admin("delete", "clusterrolebinding", people.namespace)


def test_access_and_priority_of_anothers_session_are_protected(people: People) -> None:
    let_through(people.create(ALICE, name="mine"))
    guests = {"access": [{"user": BOB, "role": "collaborator"}]}
    refused(
        people.patch("mine", guests, as_=BOB), "spec.access", f"desktop of {ALICE}", "verb assign"
    )
    refused(people.patch("mine", {"priority": 1000}, as_=BOB), "spec.priority: 1000", BOB)
    let_through(people.patch("mine", guests, as_=ALICE))
    refused(people.patch("mine", {"access": None}, as_=BOB), "spec.access")
    refused(people.patch("mine", {"access": [{"user": BOB}]}, as_=BOB), "spec.access")
    let_through(people.patch("mine", {"priority": 1}, as_=PORTAL))
    let_through(people.patch("mine", {"access": []}, as_=PORTAL))


def test_group_annotation_is_protected(people: People) -> None:
    """The operator mounts folders of groups by it."""

    def annotate(groups: str | None, as_: str) -> Result:
        return people.patch(
            "mine", metadata={"annotations": {"vdi.kasm.io/groups": groups}}, as_=as_
        )

    said = ("vdi.kasm.io/groups", f"{ALICE} may not change which groups", "verb assign")
    metadata = {"name": "new", "annotations": {"vdi.kasm.io/groups": '["cad"]'}}
    body = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "metadata": metadata}
    body["spec"] = {"user": ALICE, "template": f"{people.namespace}-open"}
    refused(people.run("create", "--dry-run=server", "-f", "-", as_=ALICE, given=body), *said)
    let_through(people.create(ALICE, as_=ALICE, name="mine"))
    refused(annotate('["cad"]', ALICE), *said)
    let_through(annotate('["cad"]', PORTAL))
    refused(annotate('["cad","staff"]', ALICE), *said)
    refused(annotate(None, ALICE), *said)
    let_through(people.patch("mine", {"timeout": "9h"}, as_=ALICE))
    let_through(annotate(None, PORTAL))


def test_no_one_suspends_or_restarts_the_desktop_of_another(people: People) -> None:
    let_through(people.create(ALICE, name="hers"))

    def restart(as_: str) -> Result:
        return people.patch(
            "hers", metadata={"annotations": {"vdi.kasm.io/restartedAt": as_}}, as_=as_
        )

    said = (f"{BOB} may not change the desktop of {ALICE}", "verb assign")
    for spec in ({"suspended": True}, {"timeout": "1s"}, {"idleTimeout": "1m"}):
        refused(people.patch("hers", spec, as_=BOB), *said)
    refused(restart(BOB), *said)
    refused(people.run("label", "vdi", "hers", "a=b", as_=BOB), *said)
    for who in (ALICE, PORTAL):
        let_through(restart(who))
        let_through(people.patch("hers", {"suspended": True}, as_=who))
        let_through(people.patch("hers", {"suspended": False}, as_=who))


def test_metadata_of_anothers_session_is_protected(people: People) -> None:
    cleanup = "vdi.kasm.io/session-cleanup"
    let_through(people.create(ALICE, name="hers"))
    let_through(people.patch("hers", metadata={"finalizers": [cleanup]}, as_=OPERATOR))
    missing = {"apiVersion": "v1", "kind": "ConfigMap", "name": "missing"}
    missing["uid"] = "0c6d7a5e-8a3b-4f0e-9d51-2f6f1f0a7c11"
    said = (
        f"{BOB} may not change the desktop of {ALICE}",
        "finalizers, ownerReferences",
        "verb assign",
    )
    for metadata in (
        {"finalizers": None},  # nothing is cleaned up
        {"finalizers": [cleanup, "example.com/never"]},  # it never goes
        {"ownerReferences": [missing]},  # the garbage collector deletes it
    ):
        refused(people.patch("hers", metadata=metadata, as_=BOB), *said)
    let_through(
        people.patch("hers", metadata={"finalizers": [cleanup, "example.com/backup"]}, as_=PORTAL)
    )
    let_through(people.patch("hers", metadata={"finalizers": None}, as_=OPERATOR))


@pytest.mark.parametrize("propagation", ["foreground", "orphan"])
def test_garbage_collector_may_remove_its_finalizers(people: People, propagation: str) -> None:
    let_through(people.create(ALICE, name="hers"))
    owner = json.loads(people.admin("get", "vdi", "hers", "-o", "json"))["metadata"]["uid"]
    reference = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "name": "hers",
        "uid": owner,
    }
    metadata: Object = {
        "name": f"hers-{propagation}",
        "ownerReferences": [reference | {"blockOwnerDeletion": True}],
    }
    people.admin(
        "create", "-f", "-", given={"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    )
    let_through(
        people.run("delete", "vdi", "hers", f"--cascade={propagation}", "--wait=false", as_=BOB)
    )
    wait_until("it is gone", lambda: people.run("get", "vdi", "hers").returncode != 0, 60)
    kept = people.run("get", "configmap", metadata["name"]).returncode == 0
    assert kept == (propagation == "orphan")


def route_for(
    people: People, scheme: Scheme = Scheme.HTTP, settings: ClusterSettings = BEHIND_GATEWAY
) -> Object:
    """The operator's route of a desktop."""
    session = a_session(name="r", namespace=people.namespace)
    return build_route(identity=Identity.of(session), host=HOST, settings=settings, scheme=scheme)


def create_route(people: People, route: Object, as_: str = OPERATOR) -> Result:
    return people.run("create", "--dry-run=server", "-f", "-", as_=as_, given=route)


def test_operator_routes_only_hosts_of_desktops(people: People) -> None:
    def asks(match: str, as_: str = OPERATOR, **more: Any) -> Result:
        route = route_for(people)
        route["spec"]["routes"][0] |= {"match": match} | more
        return create_route(people, route, as_)

    desktop, portal = f"Host(`{HOST}`)", "Host(`portal.vdi.localhost`)"
    let_through(asks(desktop))
    let_through(asks(portal, as_=BOB))  # whoever else may make routes, such as helm
    refused(asks(portal), f"spec.routes: {portal}", "never the portal")
    refused(asks(desktop, priority=3000), desktop)
    refused(asks(desktop, syntax="v2"), desktop)
    for match in (
        f"{desktop} || {portal}",
        "HostRegexp(`.*`)",
        "Host(`PORTAL.vdi.localhost`)",
        "Host(`a.b.vdi.localhost`)",
        "Host(`portal.vdiXlocalhost`)",
        "PathPrefix(`/`)",
    ):
        refused(asks(match), match)


def test_routes_in_the_form_of_the_operator_are_accepted(people: People) -> None:
    for scheme in Scheme:
        let_through(create_route(people, route_for(people, scheme)))

    def of_spec(**fields: Any) -> Result:
        route = route_for(people)
        route["spec"] |= fields
        return create_route(people, route)

    def of_rule(**fields: Any) -> Result:
        rule = route_for(people)["spec"]["routes"][0] | fields
        return of_spec(routes=[{name: value for name, value in rule.items() if value is not None}])

    def of_service(**fields: Any) -> Result:
        return of_rule(services=[service | fields])

    rule = route_for(people)["spec"]["routes"][0]
    (service,) = rule["services"]
    refused(of_spec(routes=[rule, rule]), "spec.routes")
    refused(of_spec(routes=[]), "spec.routes")
    for points in ([], ["web"], ["websecure", "web"]):
        refused(of_spec(entryPoints=points), "spec.entryPoints", "allowed: websecure")
    for tls in (
        {"secretName": "mine"},
        {"options": {"name": "no-verify"}},
        {"store": {"name": "default"}},
        {"certResolver": "letsencrypt"},
        {"domains": [{"main": "portal.vdi.localhost"}]},
        None,
    ):
        refused(of_spec(tls=tls), "spec.tls", "allowed is an empty certResolver")
    edge = {"name": "vdi-edge"}
    for middlewares in (
        None,
        [],
        [{"name": "other"}],
        [edge, {"name": "other"}],
        [edge | {"namespace": "default"}],
    ):
        refused(of_rule(middlewares=middlewares), "spec.routes.middlewares", "vdi-edge")
    for fields in (
        {"kind": "TraefikService"},
        {"namespace": "vdi-system"},
        {"serversTransport": "other"},
        {"middlewares": [{"name": "other"}]},
        {"healthCheck": {"path": "/"}},
    ):
        refused(of_service(**fields), "spec.routes.services")
    for services in (None, [], [service, service]):
        refused(of_rule(services=services), "spec.routes.services")


def test_routes_have_the_certificate_resolver_of_the_values(people: People, helm: Path) -> None:
    objects = render(helm, "values.yaml", "--set", "traefik.certResolver=letsencrypt")
    (policy,) = [
        made
        for made in objects
        if made["metadata"]["name"] == POLICIES[2] and "validations" in made["spec"]
    ]
    people.admin("apply", "--server-side", "-f", "-", given=policy)
    settings = replace(BEHIND_GATEWAY, cert_resolver="letsencrypt")
    right = route_for(people, settings=settings)
    try:
        wait_until("the policy is in force", lambda: create_route(people, right).returncode == 0)
        for tls in (
            {},
            {"certResolver": "letsencrypt"},
            {"certResolver": "other", "domains": [{"main": "*.vdi.localhost"}]},
            {"certResolver": "letsencrypt", "domains": [{"main": "portal.vdi.localhost"}]},
            {
                "certResolver": "letsencrypt",
                "domains": [{"main": "*.vdi.localhost", "sans": ["example.com"]}],
            },
            right["spec"]["tls"] | {"secretName": "mine"},
        ):
            route = route_for(people)
            route["spec"]["tls"] = tls
            refused(create_route(people, route), "spec.tls", "certResolver letsencrypt")
    finally:
        (usual,) = [
            made
            for made in policies()
            if made["metadata"]["name"] == POLICIES[2] and "validations" in made["spec"]
        ]
        people.admin("apply", "--server-side", "-f", "-", given=usual)
        wait_until(
            "the policy is as before",
            lambda: create_route(people, route_for(people)).returncode == 0,
        )


def test_other_session_changes_are_permitted(people: People) -> None:
    """The operator: finalizers, suspension at the end of the time. It has no verb assign. Whoever
    may, deletes.
    """
    guests = [{"user": BOB, "role": "viewer"}]
    let_through(people.create(ALICE, name="hers", access=guests, priority=5))
    let_through(
        people.patch("hers", metadata={"finalizers": ["vdi.kasm.io/session-cleanup"]}, as_=OPERATOR)
    )
    let_through(people.patch("hers", {"suspended": True}, as_=OPERATOR))
    let_through(
        people.patch("hers", {"timeout": "9h", "access": guests, "priority": 5}, as_=OPERATOR)
    )
    let_through(people.run("delete", "vdi", "hers", "--wait=false", as_=BOB))
    let_through(people.patch("hers", metadata={"finalizers": None}, as_=OPERATOR))
    wait_until("it is gone", lambda: people.run("get", "vdi", "hers", as_=BOB).returncode != 0)


def test_restricted_template_is_refused_to_others(people: People) -> None:
    hers = template(people, "hers", access={"users": [ALICE]})
    theirs = template(people, "theirs", access={"groups": ["painters"]})
    mixed = template(people, "mixed", access={"users": [ALICE], "groups": ["painters"]})

    def asks(who: str, which: str, *groups: str) -> Callable[[], Result]:
        return lambda: people.create(who, as_=who, groups=groups, template=which)

    wait_until("the policy has seen the templates", lambda: asks(BOB, mixed)().returncode != 0)
    for one in (
        asks(ALICE, hers),
        asks(BOB, theirs, "painters"),
        asks(ALICE, mixed),
        asks(BOB, mixed, "painters"),
    ):
        let_through(one())
    said = (f"spec.template: {hers}", f"not for {BOB}", "access of the VDITemplate")
    refused(asks(BOB, hers, "painters")(), *said)
    for one in (asks(ALICE, theirs), asks(BOB, theirs, "sculptors"), asks(BOB, mixed)):
        refused(one())
    # Who may assign is asked nothing: the gateway has looked at the person's groups, which the API
    # server cannot know.
    let_through(people.create(BOB, as_=PORTAL, template=hers))
    let_through(people.create(ALICE, as_=ALICE, template="not-there-yet"))


def test_priority_above_0_requires_the_verb_assign(people: People) -> None:
    said = (
        "spec.priority: 1000",
        f"{ALICE} may not go before others",
        "allowed: 0 or less",
        "verb assign",
    )
    refused(people.create(ALICE, as_=ALICE, priority=1000), *said)
    let_through(people.create(ALICE, as_=ALICE, priority=-5, name="mine"))
    let_through(people.patch("mine", {"priority": 0}, as_=ALICE))
    refused(people.patch("mine", {"priority": 1000}, as_=ALICE), *said)
    let_through(people.patch("mine", {"priority": 7}, as_=PORTAL))
    let_through(people.patch("mine", {"priority": 7, "timeout": "9h"}, as_=ALICE))
    let_through(people.patch("mine", {"priority": 3}, as_=ALICE))


def test_a_home_is_no_larger_than_the_template_allows(people: People) -> None:
    small = template(people, "small", persistence={"size": "5Gi", "maxSize": "20Gi"})

    def asks(size: Any, which: str = small, **more: Any) -> Result:
        return people.create(ALICE, as_=ALICE, template=which, persistence={"size": size} | more)

    wait_until("the policy has seen the template", lambda: asks("500Ti").returncode != 0)
    said = f"spec.persistence.size: 500Ti is more than the 20Gi that template {small} allows"
    refused(asks("500Ti"), said)
    refused(asks("11Gi", f"{people.namespace}-open"), "11Gi is more than the 10Gi")
    refused(asks(30 * 1024**3), f"{30 * 1024**3} is more than the 20Gi")
    for let in (
        asks("20Gi"),
        asks("1Gi"),
        asks("500Ti", enabled=False),
        asks("500Ti", "not-there-yet"),
    ):
        let_through(let)
    let_through(people.create(ALICE, as_=ALICE, template=small, name="mine"))
    refused(people.patch("mine", {"persistence": {"size": "500Ti"}}, as_=ALICE), said)
    let_through(people.patch("mine", {"persistence": {"size": "20Gi"}}, as_=ALICE))
    # A template that is made stricter later: everything else about the session goes on.
    people.admin(
        "patch",
        "vditemplate",
        small,
        "--type=merge",
        "-p",
        '{"spec":{"persistence":{"maxSize":"6Gi"}}}',
    )
    wait_until("the policy has seen the edit", lambda: asks("20Gi").returncode != 0)
    let_through(people.patch("mine", {"suspended": True}, as_=OPERATOR))
    # Who may assign is the gateway, which has checked the size, or an administrator who restores an
    # existing home.
    let_through(people.create(ALICE, as_=PORTAL, template=small, persistence={"size": "500Ti"}))


def test_the_policies_fail_closed_and_have_no_type_errors(people: People) -> None:
    for name in POLICIES:

        def looked_at(name: str = name) -> Object | None:
            shown: Object = json.loads(
                people.admin("get", "validatingadmissionpolicy", name, "-o", "json")
            )
            return shown if "observedGeneration" in shown.get("status", {}) else None

        shown = wait_until("types were checked", looked_at)
        assert shown["spec"]["failurePolicy"] == "Fail"
        assert shown["status"].get("typeChecking", {}).get("expressionWarnings", []) == [], name
