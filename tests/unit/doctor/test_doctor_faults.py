"""One healthy cluster, broken in one place each: the cause is found, and nothing else is blamed
beside it.
"""

import json
import re
import shlex

import msgspec
import pytest

from support.bundles import renamed
from support.variants import first_of
from tools.generate.doctor_pages import INDEX
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from unit.doctor.doctor_findings import ALL, every_finding, findings_of, snapshot_of
from unit.doctor.doctor_gateways import GATEWAY_FAULTS, with_gateway
from unit.doctor.doctor_gpus import GPU_FAULTS
from unit.doctor.doctor_kasm import KASM_FAULTS
from unit.doctor.doctor_unexplained import UNEXPLAINED_FAULTS
from vdi.doctor.checks.run import CHECKS, run_checks
from vdi.doctor.codes import CODES
from vdi.doctor.codes.data_plane import PROBES
from vdi.findings.model import Remedy, Severity, roots
from vdi.snapshot.check import code_page
from vdi.snapshot.model import Unreadable, load, save
from vdi.snapshot.objects import STRUCTS
from vdi.snapshot.redact import redact


@pytest.mark.parametrize("sessions", [0, 1, 3])
def test_a_healthy_cluster_has_no_findings(sessions: int) -> None:
    assert Cluster(sessions).findings() == []
    behind_a_gateway = Cluster(sessions)
    with_gateway(behind_a_gateway)
    assert behind_a_gateway.findings() == []


def test_a_volume_means_the_label_of_a_node_and_not_its_name() -> None:
    cluster = Cluster()
    cluster.one("nodes")["metadata"]["labels"]["kubernetes.io/hostname"] = "ip-10-0-0-7"
    affinity = cluster.one("persistentvolumes")["spec"]["nodeAffinity"]["required"]
    affinity["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] = ["ip-10-0-0-7"]
    assert cluster.findings() == []


@pytest.mark.parametrize(
    ("created", "has_claim", "is_found"),
    [("11:59:20", True, False), ("11:59:20", False, True), ("11:58:50", True, True)],
)
def test_scheduler_has_a_minute_to_see_the_claim(
    created: str, has_claim: bool, is_found: bool
) -> None:
    cluster = Cluster()
    name = cluster.one("persistentvolumeclaims")["metadata"]["name"]
    cluster.unscheduled(f'0/1 nodes are available: persistentvolumeclaim "{name}" not found.')
    cluster.pod["metadata"]["creationTimestamp"] = f"2026-11-20T{created}Z"
    if not has_claim:
        cluster.drop("persistentvolumeclaims")
    assert ("desktop_unschedulable" in cluster.roots()) == is_found


@pytest.mark.parametrize("name", ALL)
def test_the_cause_is_found_and_nothing_else_is_blamed(name: str) -> None:
    findings = findings_of(name)
    assert {root.code for root in roots(findings)} == ALL[name][0], [
        f"{finding.key}: {finding.message}" for finding in findings
    ]


def test_a_home_is_given_to_the_user_that_the_template_names() -> None:
    cluster = FAULTS.broken("home_0700")
    cluster.one("persistentvolumes")["spec"]["hostPath"] = {"path": "/srv/homes of us"}
    cluster.template["runAsUser"] = 1234
    (finding,) = roots(run_checks(cluster.snapshot()))
    assert finding.remedy and finding.remedy.commands == (
        "chown -R 1234:1234 '/srv/homes of us'",
        "vdi session restart alice-0 -n vdi-sessions",
    )


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("mkdir: cannot create directory '/data': Permission denied", ("chmod a+rwx /srv/db",)),
        ('could not open file "/data/PG_VERSION": Permission denied', ("ls -lnR /srv/db",)),
    ],
)
def test_files_of_a_database_are_never_opened_to_all(line: str, commands: tuple[str, ...]) -> None:
    cluster = KASM_FAULTS.broken("kasm_database_may_not_write")
    (key,) = (key for key in cluster.logs if key.startswith("kasm/"))
    cluster.logs[key] = [line]
    cluster.add("persistentvolumes", {"name": "pv-kasm"}, spec={"local": {"path": "/srv/db"}})
    (finding,) = roots(run_checks(cluster.snapshot()))
    assert finding.remedy and finding.remedy.commands == commands


def test_gpu_that_needs_wayland_gets_the_command() -> None:
    (finding,) = findings_of("intel_gpu_on_x11")
    assert finding.remedy
    patch, restart = finding.remedy.commands
    assert json.loads(shlex.split(patch)[-1]) == {"spec": {"streaming": {"display": "Auto"}}}
    assert restart.startswith("vdi session restart")


@pytest.mark.parametrize(
    "name",
    [
        name
        for faults in (FAULTS, GPU_FAULTS, GATEWAY_FAULTS, KASM_FAULTS, UNEXPLAINED_FAULTS)
        for name in first_of(faults)
    ],
)
def test_a_bundle_gives_the_same_findings(name: str) -> None:
    snapshot = snapshot_of(name)
    bundle = save(redact(snapshot))
    assert renamed(findings_of(name), snapshot) == run_checks(load(bundle))
    for word in (b"alice0@example.com", b"u:p@x", b"b2YtdGhlLWltYWdl"):
        assert word not in bundle


def test_a_finding_says_what_where_and_how_to_fix_it() -> None:
    for finding in every_finding():
        assert (
            finding.message.endswith(".")
            or finding.code == "check_failed"
            or "vdi session restart" in finding.message
        )
        assert finding.evidence, finding
        assert finding.remedy, finding
        assert finding.remedy_url == f"{code_page(CODES[finding.code])}#{finding.code}"
        assert "/" in finding.object or finding.object in (
            "nodes",
            "daemonsets",
            "device plugin",
        ), finding.object


def test_every_code_of_the_catalogue_has_a_fault_that_shows_it() -> None:
    shown = {finding.code for finding in every_finding()}
    assert shown | {probe.code for probe in PROBES} == set(CODES), (
        "probes are made in test_doctor_probe.py"
    )


@pytest.mark.parametrize("kind", sorted({kind for check in CHECKS for kind in check.needs}))
def test_what_may_not_be_read_is_no_pass_and_no_fault(kind: str) -> None:
    snapshot = Cluster().snapshot()
    objects = msgspec.structs.replace(snapshot.objects, **({kind: []} if kind in STRUCTS else {}))
    blind = msgspec.structs.replace(
        snapshot, objects=objects, unread=(Unreadable(kind, "You may not.", Remedy("ask")),)
    )
    findings = run_checks(blind)
    assert {finding.severity for finding in findings} == {Severity.UNKNOWN}
    assert "Not checked: " in findings[0].message


@pytest.mark.parametrize("layer", sorted({code.layer for code in CODES.values()}))
def test_every_code_has_a_heading_on_its_page(layer: str) -> None:
    codes = [code for code in CODES.values() if code.layer == layer]
    page = INDEX.parents[1] / code_page(codes[0])
    assert re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE) == [
        code.code for code in codes
    ]


def test_causes_exist_and_form_no_circle() -> None:
    def depth(code: str, seen: tuple[str, ...] = ()) -> int:
        assert code not in seen, seen
        return max((depth(follow, (*seen, code)) for follow in CODES[code].follows), default=0) + 1

    assert all(depth(code) < 7 for code in CODES)
