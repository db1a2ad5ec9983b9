"""Kasm's diagnosis pod by pod, on hand-made snapshots: what is waited for, chains, ordinary starts,
the command.
"""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_kasm import KASM_FAULTS
from unit.doctor.kasm_builders import PLACE, Kasm
from vdi.cli.main import main
from vdi.doctor.checks.run import rank, run_checks
from vdi.doctor.report import make_report
from vdi.findings.model import Remedy, Severity, roots
from vdi.findings.render import as_text
from vdi.kasm.diagnosis.chains import CHECKS, all_links
from vdi.kasm.generations import ALL
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import Generation
from vdi.kasm.installation import containers_to_log, find_kasm
from vdi.snapshot.model import Scope, Snapshot, Unreadable, save
from vdi.snapshot.redact import redact
from vdi.snapshot.waits import parse_wait, read_wait

NOW = "2026-11-20T12:00:00Z"


def kasm_scope(cluster: Cluster) -> Snapshot:
    """As `vdi kasm diagnose` reads it."""
    return msgspec.structs.replace(cluster.snapshot(), scope=Scope(PLACE, kasm=True))


@pytest.mark.parametrize("generation", ALL, ids=lambda one: one.letter)
def test_a_healthy_kasm_beside_an_operator_has_no_findings(generation: Generation) -> None:
    cluster = Cluster()
    Kasm(cluster, generation)
    assert cluster.findings() == []
    assert run_checks(kasm_scope(cluster), CHECKS) == []
    (found,) = find_kasm(cluster.snapshot())
    assert found.generation is generation
    assert all("operator" not in pod.name for pod in found.pods)


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (
            "while ! curl http://api:8080/__healthcheck 2>/dev/null; do sleep 5; done",
            "http://api:8080/__healthcheck",
        ),
        (
            'until curl -sk "https://user:pw@proxy.kasm:8443"; do sleep 1; done',
            "https://proxy.kasm:8443/",
        ),
        ("wget -q -O- http://manager; true", "http://manager:80/"),
        (
            "while ! pg_isready -h ${POSTGRES_HOST} -p ${POSTGRES_PORT} -t 10; do sleep 5; done",
            "postgresql://db.example:6432",
        ),
        (
            'psql -U u -p 5432 -h "${POSTGRES_HOST}" -t -c "select zone_id from zones"',
            "postgresql://db.example:5432/zones",
        ),
        (
            (
                "PGPASSWORD=$(POSTGRES_PASSWORD) psql -U kasmapp -d kasm -h db -t -c 'select"
                " zone_id from zones'"
            ),
            "postgresql://db:5432/zones",
        ),
        (
            "until redis-cli -h kasm-redis ping | grep PONG; do sleep 5; done",
            "redis://kasm-redis:6379",
        ),
        ("until nc -z -w 2 rabbit 5672; do sleep 1; done", "tcp://rabbit:5672"),
        (
            "until nslookup orders.shop.svc.cluster.local; do sleep 2; done",
            "dns://orders.shop.svc.cluster.local",
        ),
        ("chown -R 1000:1000 /var/cache/nginx", ""),
        ("psql -c 'select 1'", "postgresql://db.example:5432"),
    ],
)
def test_what_is_waited_for_is_read_from_the_command_line(line: str, address: str) -> None:
    environment = {"POSTGRES_HOST": "db.example", "POSTGRES_PORT": "6432", "POSTGRES_PASSWORD": ""}
    assert read_wait(["/bin/sh", "-c", line], environment) == address


@given(st.text(), st.lists(st.text()))
def test_no_command_line_is_too_strange(line: str, words: list[str]) -> None:
    address = read_wait([line, *words], {})
    target = parse_wait(address)
    assert (target is None) is (address == "")
    assert target is None or target.host or target.scheme


def test_a_name_of_a_kept_address_holds_no_password() -> None:
    cluster = Cluster()
    Kasm(cluster, B)
    assert b"hunter2" not in save(cluster.snapshot())


def test_the_chain_is_reported_from_the_cause_to_who_waits_last() -> None:
    cluster = KASM_FAULTS.broken("kasm_the_whole_chain_down_to_a_storage_class", 0)
    findings = cluster.findings()
    (root,) = roots(findings)
    assert root.code == "kasm_claim_class_missing"
    by_key = {finding.key: finding for finding in findings}
    guac = next(finding for finding in findings if "guac" in finding.object)
    names = []
    while guac.caused_by:
        guac = by_key[guac.caused_by]
        names.append(guac.object.rpartition("/")[2])
    assert names == [
        "kasm-proxy-default-0",
        "kasm-api-default-0",
        "kasm-db-1-19-0-0",
        "data-kasm-db",
    ]
    text = "\n".join(as_text(make_report(findings, cluster.snapshot())))
    places = [text.index(f"kasm_pod_waiting  pod/kasm/{name}") for name in reversed(names[:-1])]
    assert places == sorted(places)


@settings(max_examples=15)
@given(st.permutations(range(6)))
def test_chains_do_not_depend_on_the_order_of_pods(order: list[int]) -> None:
    cluster = KASM_FAULTS.broken("kasm_circle_of_waits", 0)
    desired = cluster.findings()
    pods = cluster.objects["pods"]
    cluster.objects["pods"] = [*(pods[place] for place in order), *pods[6:]]
    assert cluster.findings() == desired
    assert rank(desired) == desired


def test_a_service_with_several_unready_pods_says_so() -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.unready("db", state={"waiting": {"reason": "CrashLoopBackOff"}})
    twin = json.loads(json.dumps(kasm.pod("db")))
    twin["metadata"] |= {"name": "kasm-db-twin", "uid": "twin"}
    kasm.cluster.objects["pods"].append(twin)
    kasm.at_step("api", "db")
    assert any(
        "points to 2 pods, none of which is ready" in finding.message
        for finding in kasm.cluster.findings()
    )


@pytest.mark.parametrize(
    "note",
    [
        (
            'serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled'
            " on a different node"
        ),
        (
            'MountVolume.SetUp failed for volume "cert" : failed to sync secret cache: timed out'
            " waiting for the condition"
        ),
    ],
)
def test_a_mount_that_the_kubelet_retries_is_no_finding(note: str) -> None:
    """Seen on a real kubelet beside other work, in the first second of a healthy Kasm."""
    kasm = Kasm(Cluster(0), C)
    kasm.unready("db", state={"waiting": {"reason": "ContainerCreating"}})
    kasm.pod("db")["metadata"]["creationTimestamp"] = NOW
    kasm.warn_pod("db", "FailedMount", note)
    assert run_checks(kasm_scope(kasm.cluster), CHECKS) == []


def test_an_unknown_init_container_has_ten_minutes() -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.pod("proxy")["spec"]["initContainers"][0] = {
        "name": "own-step",
        "image": "example.com/own:1",
    }
    kasm.pod("proxy")["status"]["initContainerStatuses"][0] = {"name": "own-step"}
    kasm.at_place("proxy", 0, state={"running": {"startedAt": "2026-11-20T11:50:01Z"}})
    (begun,) = all_links(kasm_scope(kasm.cluster))
    assert begun.is_starting
    assert (
        begun.finding.message
        == f"The init container own-step of {kasm.pod('proxy')['metadata']['name']} runs."
    )

    kasm.at_place("proxy", 0, state={"running": {"startedAt": "2026-11-20T11:50:00Z"}})
    (finding,) = run_checks(kasm_scope(kasm.cluster), CHECKS)
    assert (finding.code, finding.severity) == ("kasm_start_stalled", Severity.WARNING)
    assert (
        "its init container own-step has run for 600 s. Whether it waits for something cannot be"
        " determined." in finding.message
    )
    assert finding.remedy.commands == (
        "kubectl --namespace kasm logs kasm-proxy-default-0 --container own-step",
    )


def test_a_name_not_on_the_command_line_is_from_the_chart() -> None:
    kasm = Kasm(Cluster(0), A)
    kasm.at_step("manager", "api")
    kasm.pod("manager")["spec"]["initContainers"][0] = {
        "name": "kasm-api-is-ready",
        "image": "kasmweb/api:1",
    }
    kasm.workload("api")["spec"]["replicas"] = 0
    kasm.without_pod("api")
    findings = kasm.cluster.findings()
    assert [finding.code for finding in findings] == ["kasm_scaled_to_zero", "kasm_pod_waiting"]


def test_an_optional_component_may_be_scaled_to_zero() -> None:
    kasm = Kasm(Cluster(0), A)
    kasm.workload("rdp-gateway")["spec"]["replicas"] = 0
    kasm.without_pod("rdp-gateway")
    (found,) = kasm.cluster.findings()
    assert (found.code, found.severity) == ("kasm_scaled_to_zero", "warning")


def test_logs_are_read_of_containers_that_ended_or_do_not_answer() -> None:
    cluster = KASM_FAULTS.broken("kasm_init_1_of_5_in_b_is_the_api", 0)
    assert list(containers_to_log(cluster.snapshot())) == [
        (PLACE, "kasm-api-deployment-0", "kasm-api-container")
    ]


def test_free_capacity_needs_all_pods() -> None:
    cluster = KASM_FAULTS.broken("kasm_too_large", 0)
    assert "has 63.1 CPU left" in cluster.findings()[0].message
    cluster.unread = [
        Unreadable("pods@all", "You may not list pods in all namespaces.", Remedy("ask"))
    ]
    found = next(finding for finding in cluster.findings() if finding.code == "kasm_unschedulable")
    assert "left" not in found.message + " ".join(found.evidence)


def test_a_sidecar_that_has_started_lets_the_next_one_begin() -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.at_step("manager", "api")
    pod = kasm.pod("manager")
    pod["spec"]["initContainers"].insert(
        0, {"name": "mesh", "image": "mesh:1", "restartPolicy": "Always"}
    )
    state = {"state": {"running": {"startedAt": NOW}}, "started": True, "ready": True}
    pod["status"]["initContainerStatuses"].insert(0, {"name": "mesh", **state})
    (unready,) = [pod for pod in find_kasm(kasm.cluster.snapshot())[0].pods if not pod.ready]
    assert (unready.state, unready.step.name if unready.step else "") == (
        "Init:2/3",
        "kasm-api-is-ready",
    )


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def typed(cluster: Cluster, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "bundle.json"
        file.write_bytes(save(redact(kasm_scope(cluster))))
        code = main(["kasm", "diagnose", "--from", str(file), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed


def test_only_one_pod_and_what_it_waits_for(run: Callable[..., tuple[int, str, str]]) -> None:
    cluster = KASM_FAULTS.broken("kasm_init_1_of_5_in_b_is_the_api", 0)
    code, out, _ = run(cluster, "kasm-proxy-default-deployment", "-o", "json")
    said = json.loads(out)
    assert code == 1
    assert [finding["code"] for finding in said["findings"]] == ["kasm_crashes", "kasm_pod_waiting"]
    (namespace,) = said["namespaces"]
    assert namespace.keys() == {"namespace", "chart", "generation", "pods", "ready"}
    assert (namespace["namespace"], namespace["chart"], namespace["generation"]) == (
        PLACE,
        "kasm-1.1181.1",
        "B",
    )
    assert run(cluster, "kasm-guac-deployment-0")[0] == 0
    code, _, err = run(cluster, "kasm-prox-default-deployment")
    assert code == 1
    assert "did you mean kasm-proxy-default-deployment" in err


def test_the_text_begins_with_the_cause_and_ends_with_a_summary(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    cluster = KASM_FAULTS.broken("kasm_circle_of_waits", 0)
    code, out, _ = run(cluster)
    assert code == 1
    assert out.startswith("ERROR    kasm_circular_wait  pod/kasm/")
    assert out.splitlines()[-1].endswith(
        "(kasm-helm-1.1190.6, generation C), 4 ready: 1 error, and 3 consequences."
    )


def test_who_only_starts_is_reported_with_status_0(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.unready("db", state={"running": {"startedAt": NOW}})
    kasm.pod("db")["metadata"]["creationTimestamp"] = NOW
    kasm.at_step("api", "db")
    kasm.at_step("proxy", "api")
    code, out, _ = run(kasm.cluster)
    assert code == 0
    assert all(f"starting {kasm.pod_name(key)}" in out for key in ("db", "api", "proxy"))
    assert "3 pods are starting, and they have no problems so far." in out


def test_where_there_is_no_kasm(run: Callable[..., tuple[int, str, str]]) -> None:
    cluster = Cluster(0)
    cluster.objects["pods"] = cluster.objects["deployments"] = []
    code, _, err = run(cluster)
    assert code == 1
    assert "there is no Kasm in namespace kasm" in err


def test_what_may_not_be_read_is_no_pass(run: Callable[..., tuple[int, str, str]]) -> None:
    cluster = Cluster(0)
    Kasm(cluster, A)
    cluster.objects.pop("services")
    cluster.unread = [
        Unreadable("services", "You may not list services.", Remedy("ask")),
        Unreadable("clusterroles", "No.", Remedy("ask")),
    ]
    code, out, _ = run(cluster)
    assert code == 3
    assert "Not checked: kasm_chains" in out
    assert "clusterroles" not in out


def test_a_service_of_a_component_that_is_off_is_no_fault() -> None:
    """Chart A makes guac's Service whatever the switch says, so that vdi's own small profile has
    one without pods.
    """
    kasm = Kasm(Cluster(0), A)
    kasm.without_pod("guac")
    kasm.cluster.objects["deployments"].remove(kasm.workload("guac"))
    assert run_checks(kasm_scope(kasm.cluster), CHECKS) == []


def test_an_undeclared_port_without_response_is_named() -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.pod("manager")["spec"]["containers"][0]["ports"] = [{"containerPort": 8282}]
    kasm.at_step("proxy", "manager")
    first = run_checks(kasm_scope(kasm.cluster), CHECKS)[0]
    assert first.code == "kasm_service_port_wrong"
    assert (
        "sends port 8181 to 8181, which none of its pods declares; declared ports: 8282"
        in first.message
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "kasm_name_wrong",
            "init container kasm-api-is-ready of kasm-manager-default-deployment-0 waits for it",
        ),
        ("kasm_target_port_wrong", "sends port 8080 to 9090, on which none of its pods listens"),
    ],
)
def test_wrong_service_is_named_with_its_mistake(fault: str, words: str) -> None:
    assert words in KASM_FAULTS.broken(fault, 0).findings()[0].message


def test_password_check_command_needs_only_the_password() -> None:
    cluster = Cluster(0)
    Kasm(cluster, A).at_step("api", "db")
    (command,) = run_checks(kasm_scope(cluster), CHECKS)[0].remedy.commands
    assert 'psql -h db -U "${POSTGRES_USER:-kasmapp}" -d "${POSTGRES_DB:-kasm}"' in command


def test_an_image_fixed_by_the_chart_is_to_be_mirrored() -> None:
    kasm = Kasm(Cluster(0), A)
    kasm.at_place(
        "proxy", 0, state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    )
    first = run_checks(kasm_scope(kasm.cluster), CHECKS)[0]
    assert first.code == "kasm_image_unavailable"
    assert (
        "no value to change the image busybox of proxy-data-perms: mirror it" in first.remedy.text
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "kasm_image_of_an_init_container",
            "The init container kasm-api-is-ready of kasm-guac-deployment-0 is not ready: the image"
            " alpine/curl:8.8.0 cannot be pulled: the registry does not respond to the node.",
        ),
        (
            "kasm_secret_of_a_volume_missing",
            "is not ready: it needs the Secret 'kasm-tls', which does not exist.",
        ),
        ("kasm_sandbox_fails", "the node cannot set up the pod: no IP addresses available."),
        ("kasm_node_gone", "the node node-9 no longer exists."),
    ],
)
def test_container_is_named_with_the_reason_of_a_desktops(fault: str, words: str) -> None:
    finding = KASM_FAULTS.broken(fault, 0).findings()[0]
    assert words in finding.message


def test_mount_that_failed_before_a_container_has_run_is_over() -> None:
    kasm = Kasm(Cluster(0), C)
    kasm.unready("db", state={"running": {"startedAt": NOW}})
    kasm.pod("db")["metadata"]["creationTimestamp"] = NOW
    kasm.warn_pod("db", "FailedMount", 'secret "kasm-tls" not found')
    assert run_checks(kasm_scope(kasm.cluster), CHECKS) == []
