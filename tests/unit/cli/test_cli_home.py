"""`vdi home` against a fake cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import CORE, SESSIONS, TEMPLATES, a_session, a_template, running
from vdi.session.naming import home_claim_name, user_home_claim_name

CLAIMS = f"{CORE}/persistentvolumeclaims"
ALICE, BOB = "alice@example.com", "bob@example.com"
OF_TEMPLATE = home_claim_name(session_name="", user=ALICE, template="ubuntu-desktop", retain=True)
OF_USER = user_home_claim_name(BOB)


pytestmark = pytest.mark.usefixtures("five_past_eight")


def a_home(name: str, user: str, template: str = "", **annotations: str) -> dict[str, Any]:
    notes = {
        "vdi.kasm.io/user": user,
        **({"vdi.kasm.io/template": template} if template else {}),
        **annotations,
    }
    labels = {"app.kubernetes.io/managed-by": "vdi-operator"}
    return {
        "metadata": {"name": name, "labels": labels, "annotations": notes},
        "spec": {"storageClassName": "local-path", "resources": {"requests": {"storage": "10Gi"}}},
        "status": {"phase": "Bound"},
    }


@pytest.fixture
def homes(fake: FakeCluster) -> FakeCluster:
    fake.put(CLAIMS, a_home(OF_TEMPLATE, ALICE, "ubuntu-desktop"))
    fake.put(CLAIMS, a_home(OF_USER, BOB, **{"vdi.kasm.io/last-used": "2026-11-20T07:35:00Z"}))
    fake.put(SESSIONS, a_session(status=running(homeClaim=OF_TEMPLATE)))
    return fake


def test_homes_are_listed(vdi: Vdi, homes: FakeCluster) -> None:
    assert [line.split() for line in vdi("home", "ls").out.splitlines()] == [
        ["NAME", "USER", "SCOPE", "TEMPLATE", "SIZE", "USED", "BY", "LAST", "USED"],
        [OF_TEMPLATE, ALICE, "UserAndTemplate", "ubuntu-desktop", "10Gi", "alice-desktop", "now"],
        [OF_USER, BOB, "User", "-", "10Gi", "-", "30m", "ago"],
    ]
    assert (
        vdi("home", "ls", "--user", BOB, "-o", "name").out == f"persistentvolumeclaim/{OF_USER}\n"
    )
    (item,) = json.loads(vdi("home", "ls", "--user", ALICE, "-o", "json").out)["items"]
    assert (item["name"], item["usedBy"]) == (OF_TEMPLATE, ["alice-desktop"])
    assert "no homes of eve@example.com" in vdi("home", "ls", "--user", "eve@example.com").err


def test_a_home_is_deleted_only_when_no_session_has_it(vdi: Vdi, homes: FakeCluster) -> None:
    refused = vdi("home", "rm", OF_USER, OF_TEMPLATE, "--yes")
    assert refused.code == 1
    assert (
        "belongs to the session alice-desktop. End it first.\nNothing was deleted." in refused.err
    )
    assert {f"{CLAIMS}/{OF_USER}", f"{CLAIMS}/{OF_TEMPLATE}"} <= set(homes.objects)
    asked = vdi("home", "rm", OF_USER)
    assert (asked.code, f"{OF_USER}: 10Gi of {BOB}" in asked.err) == (2, True)
    assert (
        vdi("home", "rm", f"persistentvolumeclaim/{OF_USER}", "--yes").out
        == f"home {OF_USER} is being deleted\n"
    )
    assert f"{CLAIMS}/{OF_USER}" not in homes.objects


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user", "bob", "-t", "cad"], "--user: 'bob' is not an e-mail address"),
        (["--user", BOB, "-t", "cad", "--size", "large"], "--size: 'large' is not a quantity"),
        (
            ["--user", BOB, "-t", "cad", "--size", "0"],
            "--size 0: allowed: quantities above zero, such as 20Gi",
        ),
        (
            ["--user", BOB, "-t", "cad"],
            "--template cad: there is no such template; allowed: ubuntu-desktop",
        ),
        (
            ["--user", BOB, "-t", "cad", "--kubectl", "/nowhere"],
            "--kubectl /nowhere: is no program",
        ),
    ],
)
def test_a_wrong_import_is_refused_before_any_write(
    vdi: Vdi, homes: FakeCluster, tmp_path: Path, words: list[str], message: str
) -> None:
    homes.put(TEMPLATES, a_template())
    archive = tmp_path / "home.tar"
    archive.write_bytes(bytes(10240))
    program = [] if "--kubectl" in words else ["--kubectl", "/bin/true"]
    refused = vdi("home", "import", str(archive), *words, *program)
    assert (refused.code, message in refused.err) == (2, True), refused.err
    assert not homes.bodies


def test_files_that_cannot_be_read_or_written_are_named(
    vdi: Vdi, homes: FakeCluster, tmp_path: Path
) -> None:
    kubectl = ("--kubectl", "/bin/true")
    missing = vdi("home", "import", f"{tmp_path}/home.tar", "--user", BOB, "-t", "x", *kubectl)
    assert (missing.code, f"{tmp_path}/home.tar: this file does not exist" in missing.err) == (
        2,
        True,
    )
    nowhere = vdi("home", "export", OF_USER, f"{tmp_path}/nowhere/home.tar", *kubectl)
    assert (
        nowhere.code,
        "nowhere does not exist; name a file in an existing folder" in nowhere.err,
    ) == (2, True)
    unknown = vdi("home", "export", "home-of-no-one", f"{tmp_path}/home.tar", *kubectl)
    assert (unknown.code, "to list all: vdi home ls" in unknown.err) == (1, True)
    assert not homes.bodies and not list(tmp_path.glob("*.tar"))
