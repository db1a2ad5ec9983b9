"""The three commands: what they say without a cluster, and what an uninstall removes and leaves."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.builders import a_session
from unit.release.test_release_preflight import a_revision, an_operator
from vdi.cli.errors import CliError
from vdi.cli.main import main
from vdi.cli.uninstall import plan_lines, refuse_unsafe, staying
from vdi.doctor.objects.components import operators_among
from vdi.release.remove import Removal, no_operator, pools_to_end, volumes_of_servers
from vdi.session.homes import HomeSummary
from vdi.snapshot.objects import convert_object


@pytest.fixture(autouse=True)
def a_helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "helm"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nprintf v4.3.1\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.delenv("HELM_DRIVER", raising=False)
    return path


def test_what_is_wrong_before_any_cluster_is_asked(
    a_helm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "-f", "absent.yaml"]) == 2
    assert "-f absent.yaml: there is no such file" in capsys.readouterr().err
    assert main(["upgrade", "--timeout", "soon"]) == 2
    assert "--timeout" in capsys.readouterr().err
    assert main(["upgrade", "--helm", "nowhere"]) == 2
    assert "nowhere is not a program" in capsys.readouterr().err
    a_helm.unlink()
    assert main(["uninstall"]) == 3
    assert "helm is not in PATH" in capsys.readouterr().err
    assert main(["install", "--chart", "/", "--helm", "/bin/true"]) == 2


KEPT = HomeSummary(
    "home-a", "vdi-sessions", "u1", "a@example.com", "UserAndTemplate", "small", "20Gi"
)
OWNED = HomeSummary("home-b", "vdi-sessions", "u2", "b@example.com", "Session", "kiosk", "1Gi")


def a_plan(**changes: Any) -> Removal:
    usual: dict[str, Any] = {
        "release": "vdi",
        "namespace": "kasm",
        "revision": a_revision(5),
        "sessions_namespaces": ("vdi-sessions",),
        "sessions": (a_session("one"),),
        "pools": ("warm",),
        "templates": ("mine",),
        "homes": (KEPT, OWNED),
        "crds": ("vdisessions.vdi.kasm.io",),
        "kept": ("namespace/vdi-sessions", "secret/vdi-gateway-users -n kasm"),
    }
    return Removal(**{**usual, **changes})


def test_homes_stay_but_those_of_a_session_alone() -> None:
    plan = a_plan()
    said = "\n".join(plan_lines(plan, plan.lost_homes, crds=False))
    assert (
        "Session one of alice@example.com: will be ended" in said
        and "Pool warm: its desktops will be ended" in said
    )
    assert (
        "DELETED, with all files in them:\n  b@example.com: 1Gi of template kiosk (home-b)" in said
    )
    stays = staying(plan, plan.lost_homes, crds=False)
    assert stays[0].startswith("home of a@example.com: 20Gi of template small (home-a), used again")
    assert (
        "namespace/vdi-sessions, with 1 home in it: kubectl delete namespace/vdi-sessions" in stays
    )
    assert "template mine: kubectl delete vditemplate mine" in stays
    assert not any("home-b" in line for line in stays)


def test_a_database_volume_stays_and_names_its_secret() -> None:
    spec = {"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    server = {"kind": "StatefulSet", "metadata": {"name": "vdi-postgresql"}, "spec": spec}
    temporary = {
        **server,
        "spec": {**spec, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}},
    }
    volumes = tuple(volumes_of_servers([server, temporary, an_operator()], "kasm"))
    assert volumes == ("persistentvolumeclaim/data-vdi-postgresql-0 -n kasm",)
    (line,) = [
        line for line in staying(a_plan(volumes=volumes), (), crds=False) if "postgresql" in line
    ]
    assert (
        "only with the password in its Secret: kubectl delete"
        " persistentvolumeclaim/data-vdi-postgresql-0" in line
    )


def test_each_namespace_of_sessions_stays_with_its_homes() -> None:
    kept = ("namespace/vdi-sessions", "namespace/lab")
    in_lab = msgspec.structs.replace(KEPT, namespace="lab")
    plan = a_plan(
        sessions_namespaces=("vdi-sessions", "lab"),
        kept=kept,
        homes=(KEPT, in_lab),
        reservations=("cad",),
    )
    stays = staying(plan, plan.lost_homes, crds=False)
    for namespace in plan.sessions_namespaces:
        assert (
            f"namespace/{namespace}, with 1 home in it: kubectl delete namespace/{namespace}"
            in stays
        )
    assert any(
        line.endswith("kubectl -n vdi-sessions delete configmap -l vdi.kasm.io/host")
        for line in stays
    )


def test_full_removal_leaves_only_namespaces_and_secrets() -> None:
    plan = a_plan()
    stays = staying(plan, plan.homes, crds=True)
    assert [line.partition(":")[0] for line in stays] == [
        "namespace/vdi-sessions",
        "secret/vdi-gateway-users -n kasm",
        "namespace/kasm, with what is listed in it",
    ]


def test_host_reservations_and_host_key_stay() -> None:
    plan = a_plan(kept=("secret/vdi-host-key -n kasm",), reservations=("alice", "cad"))
    reservations, key = (
        line for line in staying(plan, plan.homes, crds=True) if "vdi-host-" in line
    )
    assert "so that no address goes to another user" in key
    assert key.endswith(": kubectl delete secret/vdi-host-key -n kasm")
    assert reservations.startswith(
        "2 configmaps vdi-host-NAME, the first users of the host names alice, cad,"
    )
    assert reservations.endswith(": kubectl -n vdi-sessions delete configmap -l vdi.kasm.io/host")


def test_without_an_operator_it_is_said_who_would_wait() -> None:
    plan = a_plan(sessions=tuple(a_session(f"s{n}") for n in range(7)))
    assert not plan.operator_works
    words = no_operator(plan)
    assert (
        "7 sessions (s0, s1, s2, s3, s4 ...), but there is no operator that could end them" in words
    )
    assert "--force" in words


def test_crds_that_another_release_needs_stay() -> None:
    plan = a_plan(sessions=(), other_operators=("deployment/lab/vdi-operator",))
    with pytest.raises(
        CliError, match=r"deployment/lab/vdi-operator; allowed when no other release exists"
    ):
        refuse_unsafe(plan, crds=True, force=True)
    refuse_unsafe(plan, crds=False, force=False)


def test_an_unknown_release_ends_no_running_desktops() -> None:
    deployment = an_operator()
    deployment["metadata"]["namespace"] = "vdi-system"
    operators = operators_among([convert_object("deployments", deployment)])
    plan = a_plan(revision=None, operators=operators)
    with pytest.raises(
        CliError, match=r"is running; to remove its release, name it with --release and --namespace"
    ):
        refuse_unsafe(plan, crds=False, force=True)


def test_foreign_pools_end_only_without_another_operator() -> None:
    assert pools_to_end(["own", "theirs"], own={"own"}, others=True) == ("own",)
    assert pools_to_end(["own", "by-hand"], own={"own"}, others=False) == ("own", "by-hand")
