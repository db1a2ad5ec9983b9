"""What `vdi doctor --fix` would change, on each fault that it knows to fix."""

import pytest

from unit.doctor.doctor_breaks import Break, Faults, put
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from unit.doctor.doctor_gpus import GPU_FAULTS
from vdi.cli.main import main
from vdi.doctor.checks.run import run_checks
from vdi.doctor.fixes import FIXES, Fix, fix_for
from vdi.findings.model import Finding, roots
from vdi.gpu.sharing.changes import change_between, diff_lines

ALL = Faults()
ALL.update({**FAULTS, **GPU_FAULTS})
NOT_SCALED_DOWN = "operator_not_ready"
# The operator's setting is wrong, and the routes work.
OF_THE_OPERATOR = "domain_of_the_operator_is_edited"
FIXED = sorted(
    name for name, (codes, _) in ALL.items() if codes & set(FIXES) and name != NOT_SCALED_DOWN
)
# Somebody else brings the effect about: a controller that restarts, the next desktop that starts.
SEEN_LATER = frozenset({"operator_stuck", "gpu_config_not_read", "gpu_runtime_class_unset"})


def broken(name: str) -> tuple[Cluster, Finding, Fix]:
    cluster = ALL.broken(name)
    (finding,) = [root for root in roots(run_checks(cluster.snapshot())) if root.code in FIXES]
    fix = fix_for(finding)
    assert fix is not None
    return cluster, finding, fix


@pytest.mark.parametrize("name", FIXED)
def test_a_fix_removes_its_finding_and_changes_one_object(name: str) -> None:
    cluster, finding, fix = broken(name)
    snapshot = cluster.snapshot()
    _, object_name = fix.place(finding)
    there = cluster.one(fix.resource.plural, object_name)
    step = change_between(fix.resource, there, fix.change(there, snapshot))
    assert step is not None, "nothing would be changed"
    assert diff_lines(step)
    assert step.after is not None
    if finding.code in SEEN_LATER:
        return
    cluster.drop(fix.resource.plural, object_name)
    cluster.objects[fix.resource.plural].append(dict(step.after))
    assert finding.key not in {finding.key for finding in run_checks(cluster.snapshot())}


@pytest.mark.parametrize(
    "name", [OF_THE_OPERATOR, "route_of_another_host", "no_one_behind_the_service"]
)
def test_no_fix_and_no_remedy_deletes_what_may_work(name: str) -> None:
    (finding,) = ALL.broken(name, sessions=2).findings()
    assert fix_for(finding) is None
    assert not any(" delete " in command for command in finding.remedy.commands)


def test_every_fix_is_shown_by_a_fault() -> None:
    assert {code for name in FIXED for code in ALL[name][0]} >= set(FIXES)


def _several_keys(cluster: Cluster) -> None:
    data = cluster.one("configmaps")["data"]
    data["other"] = data["any"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (NOT_SCALED_DOWN, lambda _: None),
        (
            "encoder_of_selkies_1",
            put("vditemplates", "metadata.annotations", {"meta.helm.sh/release-name": "vdi"}),
        ),
        (
            "black_picture",
            put("vditemplates", "metadata.annotations", {"meta.helm.sh/release-name": "vdi"}),
        ),
        ("no_default", _several_keys),
        ("plugin_not_restarted", put("configmaps", "data.any", "version: [")),
    ],
    ids=[
        "a failing operator",
        "encoder in a Helm release",
        "runtime class in one",
        "several default keys",
        "a broken GPU configuration",
    ],
)
def test_what_a_person_has_to_decide_is_left_alone(name: str, change: Break) -> None:
    cluster, finding, fix = broken(name)
    change(cluster)
    there = cluster.one(fix.resource.plural, fix.place(finding)[1])
    assert fix.change(there, cluster.snapshot()) == there


def test_a_finding_about_another_kind_is_not_fixed() -> None:
    _, finding, _ = broken("operator_scaled_away")
    elsewhere = Finding(code=finding.code, severity=finding.severity, object="node/one", message="")
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
