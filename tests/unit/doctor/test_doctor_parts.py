"""Certificates, redaction, ranking, rendering, collecting: each by itself."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.doctor.doctor_builders import JUST_NOW, SPACE, Cluster
from unit.doctor.doctor_faults import FAULTS, two_on_one_home
from vdi.doctor.checks.run import CHECKS, rank, run_checks
from vdi.doctor.objects.components import LEASE, troubles
from vdi.doctor.objects.references import pods_to_log
from vdi.operator import runtime
from vdi.session.naming import user_home_claim_name
from vdi.snapshot.certificate import covers, read_certificate
from vdi.snapshot.check import Check
from vdi.snapshot.model import BadSnapshotError, Scope, Snapshot, load, save
from vdi.snapshot.redact import redact


def test_the_lease_is_the_operators() -> None:
    assert LEASE == runtime.LEASE


@pytest.mark.parametrize(
    ("name", "host", "covered"),
    [
        ("*.vdi.example.com", "a.vdi.example.com", True),
        ("*.VDI.example.com", "a.vdi.example.com", True),
        ("a.vdi.example.com", "a.vdi.example.com", True),
        ("*.example.com", "a.vdi.example.com", False),
        ("*.vdi.example.com", "vdi.example.com", False),
        ("*.vdi.example.com", "a.b.vdi.example.com", False),
    ],
)
def test_a_wildcard_stands_for_one_label(name: str, host: str, covered: bool) -> None:
    assert covers(name, host) is covered


def test_what_is_no_certificate_is_said() -> None:
    assert "no key" in read_certificate("a", "b", b"").problem
    assert "not a certificate" in read_certificate("a", "b", b"rubbish").problem


def test_a_check_that_raises_is_a_finding_and_the_others_run() -> None:
    def broken(_: Snapshot) -> list[object]:
        raise ZeroDivisionError("nobody expected that")

    cluster = Cluster()
    cluster.drop("ingressroutes")
    checks = (Check("broken", frozenset(), broken),)  # type: ignore[arg-type]
    codes = [finding.code for finding in run_checks(cluster.snapshot(), (*checks, *CHECKS))]
    assert codes == ["route_missing", "check_failed"]


def test_the_proof_is_the_event_that_says_why() -> None:
    cluster = FAULTS.broken("image_wrong")
    for note in (
        "Failed to pull: manifest unknown",
        "Error: ErrImagePull",
        "Error: ImagePullBackOff",
    ):
        cluster.warn_pod("Failed", note)
    (finding,) = cluster.findings()
    assert "Failed: Failed to pull: manifest unknown" in finding.evidence
    assert not any("Error: " in line for line in finding.evidence)


def test_two_faults_at_once_are_both_named() -> None:
    cluster = Cluster(2)
    for name in ("disk_full", "certificate_over", "role_cut", "waiting_for_stream"):
        FAULTS[name][1](cluster)
    assert set(cluster.roots()) == {
        *("node_under_pressure", "certificate_expired", "release_differs", "library_missing"),
    }


@given(st.permutations(sorted(FAULTS)))
def test_ranking_loses_nothing_and_does_not_depend_on_the_order(order: list[str]) -> None:
    cluster = Cluster(2)
    for name in ("node_lost", "disk_full", "role_cut", "encoder_of_selkies_1"):
        FAULTS[name][1](cluster)
    findings = cluster.findings()
    places = {name: place for place, name in enumerate(order)}
    mixed = sorted(findings, key=lambda finding: places.get(finding.code, len(finding.key) % 7))
    assert rank(mixed) == findings
    known = {finding.key for finding in findings}
    assert all(finding.caused_by in known for finding in findings if finding.caused_by)


SECRET = "hunter2hunter2"


def test_a_bundle_has_no_secrets_and_no_names_of_people() -> None:
    cluster = Cluster()
    cluster.template["env"] = [{"name": "API_KEY", "value": SECRET}]
    cluster.traefik_args.append(f"--certificatesresolvers.x.acme.eab.hmac={SECRET}")
    notes = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"env": SECRET}})
    }
    cluster.pod["metadata"]["annotations"] |= notes
    cluster.pod["spec"]["containers"][0]["env"].append({"name": "PASSWORD", "value": SECRET})
    login = f"login of alice0@example.com with password={SECRET}"
    cluster.say(login, f'{{"token": "{SECRET}"}}', f"Authorization: Bearer {SECRET}")
    cluster.not_ready(last={"reason": "Error", "message": f"password={SECRET}"}, restarts=2)
    cluster.warn_pod("BackOff", f"it said: token: {SECRET}")
    bundle = save(redact(cluster.snapshot())).decode()
    assert SECRET not in bundle
    assert "alice0" not in bundle
    assert "person-1@example.invalid" in bundle


def test_homes_stay_connected_after_redaction() -> None:
    snapshot = load(save(redact(Cluster(3).snapshot())))
    assert run_checks(snapshot) == []
    assert all(
        pod.home_claim in {name for _, name in snapshot.claims}
        for pod in snapshot.pods
        if pod.home_claim
    )


def test_a_home_of_all_templates_loses_the_name_of_its_user_too() -> None:
    cluster = Cluster()
    user = cluster.objects["vdisessions"][0]["spec"]["user"]
    claim = cluster.objects["persistentvolumeclaims"][0]
    claim["metadata"]["name"] = user_home_claim_name(user)
    ((_, name),) = load(save(redact(cluster.snapshot()))).claims
    assert name == user_home_claim_name("person-1@example.invalid")


def test_desktops_may_share_a_read_write_many_home() -> None:
    cluster = Cluster()
    two_on_one_home(cluster)
    assert "home_mounted_twice" in {finding.code for finding in run_checks(cluster.snapshot())}
    cluster.objects["persistentvolumeclaims"][0]["spec"]["accessModes"] = ["ReadWriteMany"]
    assert "home_mounted_twice" not in {finding.code for finding in run_checks(cluster.snapshot())}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"taken_at": "yesterday"}',
        b'{"taken_at": "2026-11-20T12:00:00Z", "format": 9}',
    ],
)
def test_a_file_that_is_no_bundle_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadSnapshotError):
        load(data)


def test_logs_of_one_desktop_per_template_and_of_faulty_ones() -> None:
    cluster = Cluster(5)
    names = [session["metadata"]["name"] for session in cluster.objects["vdisessions"]]
    operator, _ = pods_to_log(cluster.snapshot(), 20)
    cluster.crashes(restarts=1)
    cluster.pod["metadata"]["creationTimestamp"] = JUST_NOW
    assert pods_to_log(cluster.snapshot(), 20)[:2] == [operator, (SPACE, names[0])]
    assert len(pods_to_log(cluster.snapshot(), 1)) == 1
    one = msgspec.structs.replace(cluster.snapshot(), scope=Scope(SPACE, names[3]))
    assert pods_to_log(one, 20) == [operator, (SPACE, names[3])]


def test_every_trouble_that_a_gateway_can_name_is_understood() -> None:
    names = (
        "database",
        "shared state",
        "single sign-on",
        "signing keys",
        "revocations",
        "vdisessions",
        "clock",
    )
    lines = [f'level=warning msg="trouble: {name}: no answer"' for name in names]
    assert troubles(lines) == dict.fromkeys(names, "no answer")
