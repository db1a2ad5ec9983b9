from typing import Any

import pytest

from bench.first_picture import FIRST, main, table, verdicts
from bench.ways import copy, is_ready, status


def a_child(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "picture-0",
            "namespace": "vdi-sessions",
            "uid": "u-1",
            "resourceVersion": "7",
            "labels": {"vdi.kasm.io/session": "picture-0", "app.kubernetes.io/managed-by": "vdi-operator"},
            "ownerReferences": [{"kind": "VDISession", "name": "picture-0", "uid": "u-0"}],
            "managedFields": [{}],
        },
        "spec": spec,
        "status": {"phase": "Running"},
    }


def test_a_copy_has_another_name_everywhere_and_no_owner() -> None:
    pod = a_child(containers=[{"env": [{"valueFrom": {"secretKeyRef": {"name": "picture-0-auth"}}}]}])
    copied = copy(pod, "picture-0", "raw-3")
    assert copied["metadata"] == {
        "name": "raw-3",
        "namespace": "vdi-sessions",
        "labels": {"vdi.kasm.io/session": "raw-3"},
    }
    assert copied["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "raw-3-auth"
    assert pod["metadata"]["name"] == "picture-0", "the model stays as it was"


def test_a_copy_is_not_bound_to_a_node_and_mounts_the_same_home() -> None:
    home = {"name": "home", "persistentVolumeClaim": {"claimName": "home-bench-small-x"}}
    copied = copy(a_child(nodeName="n1", clusterIP="None", clusterIPs=["None"], volumes=[home]), "picture-0", "raw-3")
    assert copied["spec"] == {"clusterIP": "None", "volumes": [home]}
    assert "status" not in copied


def test_a_secret_has_no_spec_and_keeps_its_password() -> None:
    secret = a_child()
    del secret["spec"]
    copied = copy(secret | {"data": {"password": "cGljdHVyZQ=="}, "immutable": True}, "picture-0", "raw-3")
    assert copied["data"] == {"password": "cGljdHVyZQ=="}
    assert copied["immutable"] is True


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "ContainersReady", "status": "True"}], False),
        ([], False),
    ],
)
def test_only_the_condition_ready_makes_a_pod_ready(conditions: list[dict[str, str]], ready: bool) -> None:
    assert is_ready({"status": {"conditions": conditions}}) is ready


def test_a_status_that_no_one_wrote_is_empty() -> None:
    assert status({}, "url") == ""
    assert status({"status": {"phase": "Running"}}, "phase") == "Running"


def test_the_table_compares_both_ways_and_keeps_the_first_start_apart() -> None:
    cpu = {"browser_cpu_s": 1.5, "node_cpu_s": 0.5}
    figures = [{"way": FIRST, "ready_s": 6.0, "picture_s": 8.0, **cpu}]
    figures += [{"way": "vdi", "ready_s": 3.0 + i, "picture_s": 4.0 + i, **cpu} for i in range(3)]
    figures += [{"way": "raw API", "ready_s": 2.0, "picture_s": 4.0, **cpu, "node_cpu_s": 0.25} for _ in range(3)]
    figures += [{"way": "from a pool", "ready_s": 0.1, "picture_s": 0.5 + i, **cpu} for i in range(3)]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(figures).splitlines()]
    assert lines[2:] == [
        ["ready to be opened, p50, s", "4.00", "2.00", "2.00", "0.10"],
        ["ready to be opened, slowest, s", "5.00", "2.00", "2.50", "0.10"],
        ["first picture in the browser, p50, s", "5.00", "4.00", "1.25", "1.50"],
        ["first picture in the browser, slowest, s", "6.00", "4.00", "1.50", "2.50"],
        ["CPU of the browser from ready to picture, p50, s", "1.50", "1.50", "1.00", "1.50"],
        ["CPU of all else from ready to picture, p50, s", "0.50", "0.25", "2.00", "0.50"],
        ["first picture of a user's first start (the home is made), s", "8.00", "", "", ""],
    ]


def test_goals_are_reported_by_the_median() -> None:
    figures = [{"way": "vdi", "picture_s": seconds} for seconds in (3.0, 3.9, 9.0)]
    figures += [{"way": "from a pool", "picture_s": seconds} for seconds in (0.5, 1.0, 1.1)]
    assert [line.split()[0] for line in verdicts(figures)] == ["met", "MISSED"]


def test_without_a_cluster_it_says_how_to_get_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("VDI_STATE", "VDI_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert main([]) == 3
    assert "make demo" in capsys.readouterr().err


def test_a_number_of_starts_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-n", "0"])
    assert "0: allowed: 1 or more" in capsys.readouterr().err
