"""What `vdi doctor --fix` would change, on each fault that it knows to fix."""

from typing import Any

import pytest

from unit.doctor.doctor_breaks import Faults
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from unit.doctor.doctor_gpus import GPU_FAULTS
from vdi.cli.main import main
from vdi.doctor.checks.run import run_checks
from vdi.doctor.fixes import FIXES, fix_for
from vdi.findings.model import Finding, roots
from vdi.gpu.sharing.changes import change_between, diff_lines

ALL = Faults()
ALL.update({**FAULTS, **GPU_FAULTS})
NOT_SCALED_DOWN = "operator_not_ready"
FIXED = sorted(name for name, (codes, _) in ALL.items() if codes & set(FIXES) and name != NOT_SCALED_DOWN)
# Somebody else brings the effect about: a controller that restarts, the next desktop that starts.
SEEN_LATER = frozenset({"operator_stuck", "gpu_config_not_read", "gpu_runtime_class_unset"})


def broken(name: str) -> tuple[Cluster, Finding]:
    cluster = ALL.broken(name)
    (finding,) = [root for root in roots(run_checks(cluster.snapshot())) if root.code in FIXES]
    return cluster, finding


@pytest.mark.parametrize("name", FIXED)
def test_a_fix_removes_its_finding_and_changes_one_object(name: str) -> None:
    cluster, finding = broken(name)
    snapshot = cluster.snapshot()
    fix = fix_for(finding)
    assert fix is not None
    namespace, object_name = fix.place(finding)
    there = snapshot.find(fix.resource.plural, object_name, namespace or "")
    assert there is not None, finding.object
    step = change_between(fix.resource, there, fix.change(there, snapshot))
    assert step is not None, "nothing would be changed"
    assert diff_lines(step)
    if step.after is None or finding.code in SEEN_LATER:
        return
    cluster.drop(fix.resource.plural, object_name)
    cluster.objects[fix.resource.plural].append(dict(step.after))
    assert finding.key not in {finding.key for finding in run_checks(cluster.snapshot())}


def test_a_failing_operator_is_not_scaled() -> None:
    cluster, finding = broken(NOT_SCALED_DOWN)
    fix = fix_for(finding)
    assert fix is not None
    there = cluster.one("deployments", "vdi-operator")
    assert fix.change(there, cluster.snapshot()) == there


def test_every_fix_is_shown_by_a_fault() -> None:
    assert {code for name in FIXED for code in ALL[name][0]} >= set(FIXES)


@pytest.mark.parametrize("name", ["encoder_of_selkies_1"])
def test_what_came_with_a_helm_release_is_left_to_its_values(name: str) -> None:
    cluster, finding = broken(name)
    fix = fix_for(finding)
    assert fix is not None
    there: dict[str, Any] = cluster.one(fix.resource.plural, fix.place(finding)[1])
    there["metadata"]["annotations"] = {"meta.helm.sh/release-name": "vdi"}
    assert fix.change(there, cluster.snapshot()) == there


def test_a_person_chooses_among_several_default_keys() -> None:
    name = next(name for name in FIXED if "gpu_default_key_unset" in ALL[name][0])
    cluster, finding = broken(name)
    for config_map in cluster.objects["configmaps"]:
        config_map["data"]["other"] = next(iter(config_map["data"].values()))
    fix = fix_for(finding)
    assert fix is not None
    there = cluster.objects["clusterpolicies"][0]
    assert fix.change(there, cluster.snapshot()) == there


def test_a_finding_about_another_kind_is_not_fixed() -> None:
    _, finding = broken("operator_scaled_away")
    elsewhere = Finding(code=finding.code, severity=finding.severity, object="node/one", message="")
    assert fix_for(finding)
    assert fix_for(elsewhere) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fix", "--from", "bundle.json"), "--fix cannot go with --from"),
        (("--fix", "-o", "json"), "--fix cannot go with --from or -o"),
        (("--yes",), "--yes is for --fix"),
    ],
)
def test_what_cannot_go_together_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err
