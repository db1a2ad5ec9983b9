"""Faults made for real, on a real kubelet: in each, the top finding is the cause."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from kasm.kasm_ward import KasmStage
from support.waiting import wait_until

NOWHERE = "localhost/no/such/image:1"
INITIALIZE = "dbManagement__initialize"
SHARE = "kasmApp__servicesToDeploy__kasmShare"


# Values that are wrong


class Fault(NamedTuple):
    """A value that is wrong: in which generation, and what the top finding says of it."""

    letter: str
    values: dict[str, str]
    code: str
    # `kind/beginning-of-its-name`
    where: str
    message: tuple[str, ...] = ()
    # A whole line.
    evidence: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    # From the pod whose name begins so, to the cause.
    follows: tuple[str, ...] = ()


FAULTS = {
    "Init:1/5 in A is the manager": Fault(
        "a", {"kasmApp__servicesToDeploy__kasmManager__env__CRASH": "zone default is not known"},
        "kasm_crashes", "pod/kasm-manager-deployment-",
        message=("exit code 3", "zone default is not known"),
        follows=("kasm-proxy-deployment-", "kasm_crashes kasm-manager-deployment-"),
    ),
    "Init:1/5 in B is the API": Fault(
        "b", {"components__api__image": NOWHERE}, "kasm_image_unavailable", "pod/kasm-api-deployment-",
        follows=("kasm-proxy-default-deployment-", "kasm_image_unavailable kasm-api-deployment-"),
    ),
    "image of the database": Fault(
        "b", {"components__db__image": NOWHERE}, "kasm_image_unavailable", "pod/kasm-db-statefulset-0",
        follows=(
            "kasm-proxy-default-deployment-",
            "kasm_pod_waiting kasm-api-deployment-",
            "kasm_image_unavailable kasm-db-statefulset-0",
        ),
    ),
    "image of the init containers": Fault(
        "a", {"images__program": "alpine/curl:8.8.0-not-mirrored"}, "kasm_image_unavailable", "pod/",
        message=("init container",),
    ),
    "Secret of the certificate missing": Fault(
        "b", {"certificate__secretName": "kasm-tls"}, "kasm_reference_missing", "pod/kasm-proxy-default-deployment-",
        message=("needs the Secret 'kasm-tls'",),
        remedy=("create secret tls kasm-tls",),
    ),
    "ConfigMap missing": Fault(
        "c", {"components__proxy__configMap": "kasm-own-settings"},
        "kasm_reference_missing", "pod/kasm-proxy-default-",
        message=("the ConfigMap 'kasm-own-settings'",),
    ),
    "program missing": Fault(
        "b", {"components__guac__program": "/usr/bin/no-such-program"},
        "kasm_cannot_start", "pod/kasm-guac-deployment-",
    ),
    "crash with its last words": Fault(
        "c", {"components__rdpGateway__env__CRASH": "cannot bind to 3389"},
        "kasm_crashes", "pod/kasm-rdp-gateway-default-",
        evidence=("log: cannot bind to 3389",),
    ),
    "out of memory": Fault(
        "a", {f"{SHARE}__resources__limits__memory": "24Mi", f"{SHARE}__env__HUNGRY": "200"},
        "kasm_out_of_memory", "pod/kasm-share-deployment-",
        message=("24Mi",),
    ),
    "probe fails": Fault(
        "c", {"components__manager__env__UNWELL": "yes"}, "kasm_probe_fails", "pod/kasm-manager-default-",
        message=("503",),
        follows=("kasm-proxy-default-", "kasm_probe_fails kasm-manager-default-"),
    ),
    "StorageClass missing": Fault(
        "c", {"database__storage__storageClassName": "longhorn"},
        "kasm_claim_class_missing", "persistentvolumeclaim/kasm-database-kasm-db-1-19-0-0",
        message=("'longhorn'", "local-path"),
        follows=(
            "kasm-guac-default-0",
            "kasm_pod_waiting kasm-proxy-default-",
            "kasm_pod_waiting kasm-api-default-",
            "kasm_pod_waiting kasm-db-1-19-0-0",
            "kasm_claim_class_missing kasm-database-kasm-db-1-19-0-0",
        ),
    ),
    "requests too large": Fault(
        "c", {"components__api__resources__requests__cpu": "100"}, "kasm_unschedulable", "pod/kasm-api-default-",
        message=("It requests 100 CPU; the node with the most free capacity has",),
        follows=("kasm-proxy-default-", "kasm_unschedulable kasm-api-default-"),
    ),
    "external database missing": Fault(
        "c", {"database__standalone": "true", "database__hostname": "pg.example.invalid", INITIALIZE: "false"},
        "kasm_outside_silent", "",
    ),
    "circular wait as in 1.1190.0": Fault(
        "c", {"circularWait": "true"}, "kasm_circular_wait", "pod/kasm-",
        message=("2 pods wait for each other",),
        remedy=("--version 1.1190.6",),
    ),
    "db-init failed": Fault(
        "c", {"initDatabase": "no-such-database", "initTries": "0"}, "kasm_db_init_failed", "job/kasm-db-init",
        follows=("kasm-proxy-default-", "kasm_pod_waiting kasm-api-default-", "kasm_db_init_failed kasm-db-init"),
    ),
    "no Job initialises the database": Fault(
        "b", {INITIALIZE: "false"}, "kasm_database_not_initialised", "service/kasm-db",
        remedy=("dbManagement.initialize=true",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_wrong_value_is_the_top_finding(ward: KasmStage, fault: Fault) -> None:
    ward.install(fault.letter, **fault.values)
    found = ward.finds(fault.code, fault.where)
    assert [words for words in fault.message if words not in found.message] == []
    assert set(fault.evidence) <= set(found.evidence)
    assert [words for words in fault.remedy if words not in found.remedy.text] == []
    if fault.follows:
        ward.follows(*fault.follows)


# References


def test_key_of_a_secret_missing(ward: KasmStage) -> None:
    ward.install("a")
    ward.patch(
        "secret", "kasm-secrets", [{"op": "remove", "path": "/data/manager-token"}], how="json"
    )
    # The first one that needs it.
    found = ward.finds("kasm_reference_missing", "pod/kasm-db-init-job-")
    assert "'manager-token', which is missing in the Secret 'kasm-secrets'" in found.message
    ward.follows(
        "kasm-proxy-deployment-",
        "kasm_pod_waiting kasm-api-deployment-",
        "kasm_reference_missing kasm-db-init-job-",
    )


# Volumes and room


def test_no_default_storage_class(ward: KasmStage) -> None:
    def change(is_default: str) -> None:
        note = {"storageclass.kubernetes.io/is-default-class": is_default}
        ward.patch("storageclass", "local-path", {"metadata": {"annotations": note}})

    change("false")
    try:
        ward.install("b")
        found = ward.finds(
            "kasm_claim_class_missing", "persistentvolumeclaim/kasm-db-data-kasm-db-statefulset-0"
        )
    finally:
        change("true")
    assert "has no default" in found.message


@contextmanager
def stopped(ward: KasmStage, namespace: str, deployment: str) -> Iterator[None]:
    """A part of the cluster does not run."""

    def scale(replicas: str) -> None:
        ward.tools.kubectl(
            "--namespace", namespace, "scale", "deployment", deployment, "--replicas", replicas
        )

    def ready() -> str:
        path = "jsonpath={.status.readyReplicas}"
        return ward.tools.kubectl(
            "--namespace", namespace, "get", "deployment", deployment, "-o", path
        )

    scale("0")
    try:
        wait_until(f"{deployment} is gone", lambda: not ready())
        yield
    finally:
        scale("1")
        wait_until(f"{deployment} is back", ready)


def test_provisioner_stopped(ward: KasmStage) -> None:
    with stopped(ward, "kube-system", "local-path-provisioner"):
        ward.install("a")
        found = ward.finds(
            "kasm_claim_pending", "persistentvolumeclaim/kasm-db-data-kasm-db-statefulset-0"
        )
    assert "rancher.io/local-path" in found.message


# Who makes pods


def test_database_stopped(ward: KasmStage) -> None:
    ward.install("a")
    ward.kubectl("scale", "statefulset", "kasm-db-statefulset", "--replicas", "0")
    found = ward.finds("kasm_scaled_to_zero", "statefulset/kasm-db-statefulset")
    assert found.remedy.text.endswith("scale statefulset kasm-db-statefulset --replicas 1")
    ward.follows(
        "kasm-proxy-deployment-",
        "kasm_pod_waiting kasm-api-deployment-",
        "kasm_scaled_to_zero kasm-db-statefulset",
    )


def test_pod_security_refuses_data_perms(ward: KasmStage) -> None:
    ward.kubectl(
        "label", "namespace", ward.namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    ward.install("b")
    found = ward.finds("kasm_pod_security", "deployment/kasm-")
    assert "'restricted'" in found.message
    assert "-perms" in found.message

    def refused() -> bool:
        """Its ReplicaSet may be later than that of the first finding to report that its pods are
        refused.
        """
        proxies = [
            one
            for one in ward.look(ward.ahead)
            if one.object.endswith("/kasm-proxy-default-deployment")
        ]
        return [proxy.code for proxy in proxies] == ["kasm_pod_security"]

    wait_until("the proxy's pods are refused for the same reason", refused, every=1)


def test_quota_reached(ward: KasmStage) -> None:
    ward.kubectl("create", "quota", "few", "--hard", "pods=3")
    ward.install("c")
    found = ward.finds("kasm_pods_refused", "")
    assert "exceeded quota: few" in found.message


# Services and names


def test_selector_of_a_service_wrong(ward: KasmStage) -> None:
    ward.install("b")
    ward.patch(
        "service", "kasm-api", {"spec": {"selector": {"app.kubernetes.io/name": "kasm-api-server"}}}
    )
    found = ward.finds("kasm_service_selects_nothing", "service/kasm-api")
    assert "kasm-api-deployment is probably meant" in found.message
    command = found.remedy.commands[0].removeprefix("kubectl ").replace("'", "").split()
    ward.tools.kubectl(*command)  # what it says fixes it
    wait_until("Kasm is well", ward.is_well, 120)
    assert not (wrong := ward.look()), str(wrong)


def test_service_port_not_named_by_a_container(ward: KasmStage) -> None:
    ward.install("c")
    change = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": "manager-pt"}]
    ward.patch("service", "kasm-manager-default", change, how="json")
    found = ward.finds("kasm_service_port_wrong", "service/kasm-manager-default")
    assert "manager-pt" in found.message
    ward.follows("kasm-proxy-default-", "kasm_service_port_wrong kasm-manager-default")


def test_dns_stopped(ward: KasmStage) -> None:
    with stopped(ward, "kube-system", "coredns"):
        ward.install("c")
        found = wait_until(
            "DNS is blamed", lambda: [one for one in ward.look() if one.code == "dns_down"], 120
        )
    assert "scale deployment coredns --replicas 1" in found[0].remedy.text


# The database's contents


def test_db_init_crashes(ward: KasmStage) -> None:
    ward.install("a", initDatabase="no-such-database")
    found = ward.finds("kasm_crashes", "pod/kasm-db-init-job-")
    assert any('database "no-such-database" does not exist' in line for line in found.evidence)


def test_database_password_wrong(ward: KasmStage) -> None:
    ward.install("b")
    job = ("get", "job", "kasm-db-init-job", "-o", "jsonpath={.status.succeeded}")
    wait_until("the tables are made", lambda: "1" in ward.kubectl(*job), 120)
    ward.patch("secret", "kasm-secrets", {"stringData": {"db-password": "another"}})
    ward.kubectl("delete", "pod", "--selector", "app.kubernetes.io/component=api", "--now")
    found = ward.finds("kasm_database_not_initialised", "service/kasm-db")
    assert "password" in found.message


# A chart that no one has described


def test_unknown_chart(ward: KasmStage) -> None:
    labels = {"app": "portal"}
    step = {
        "name": "before",
        "image": "docker.io/library/debian:13-slim",
        "command": ["/bin/sh", "-c"],
    }
    step["args"] = ["until nslookup orders; do sleep 1; done"]
    spec = {
        "initContainers": [step],
        "containers": [{"name": "portal", "image": "docker.io/library/debian:13-slim"}],
    }
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "portal", "namespace": ward.namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    ward.tools.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    found = ward.finds("kasm_service_missing", "service/orders")
    assert "init container before of portal-" in found.message
