"""The demo's scene: created once, in the order in which the queue shows it, and printed with
logins.
"""

import json
from pathlib import Path

import pytest

from vdi.cli.main import main
from vdi.demo import run, scene
from vdi.demo.browser import Login


class Kubectl:
    """Stands in for kubectl: remembers objects, and the order of commands."""

    def __init__(self, *there: str) -> None:
        self.there = list(there)
        self.typed: list[str] = []

    def __call__(self, *words: str, stdin: str = "") -> str:
        if words[0] == "get":
            return "\n".join(self.there)
        if words[0] == "create":
            made = json.loads(stdin)
            self.there.append(f"{made['kind'].lower()}.vdi.kasm.io/{made['metadata']['name']}")
            self.typed.append(f"create {made['metadata']['name']}")
        else:
            self.typed.append(words[0])
        return ""


@pytest.mark.parametrize(("pool", "last"), [(True, ["create kiosk"]), (False, [])])
def test_waiting_session_is_created_when_the_gpus_are_taken(pool: bool, last: list[str]) -> None:
    kubectl = Kubectl()
    scene.create_objects(kubectl, pool=pool, seconds=600)
    assert kubectl.typed == [
        "create alice-small",
        "create bob-cad",
        "wait",
        "create alice-cad",
        *last,
    ]
    kubectl.typed.clear()
    scene.create_objects(kubectl, pool=pool, seconds=600)
    assert not kubectl.typed, "a second run leaves everything as it is"


def test_second_run_waits_and_goes_on() -> None:
    kubectl = Kubectl("vdisession.vdi.kasm.io/alice-small", "vdisession.vdi.kasm.io/bob-cad")
    scene.create_objects(kubectl, pool=False, seconds=600)
    assert kubectl.typed == ["wait", "create alice-cad"]


@pytest.mark.parametrize(
    ("cores", "kib", "reason"),
    [
        (2, 6 << 20, ""),
        (1, 9 << 20, "this machine has 1 and 9.0 GiB"),
        (4, 5 << 20, "this machine has 4 and 5.0 GiB"),
    ],
)
def test_pool_needs_free_cores_and_memory(cores: int, kib: int, reason: str) -> None:
    left_out = scene.missing_capacity(cores, f"MemFree: 1 kB\nMemAvailable:   {kib} kB\n")
    assert left_out.endswith(reason)
    assert bool(left_out) == bool(reason)


def test_up_prints_logins_and_five_lines_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    login = Login("https://portal.vdi.localhost:8443", run.USER, "p1")
    demo = run.Demo(tmp_path / "kubeconfig", tmp_path / "tools", login)
    monkeypatch.setattr(run, "up", lambda *_, **__: demo)
    monkeypatch.setattr(run, "start_session", lambda *_, **__: "https://first")
    people = [Login(login.portal, scene.ALICE, "p2")]
    monkeypatch.setattr(scene, "seed", lambda *_, **__: (people, "the pool"))
    assert main(["demo", "up"]) == 0
    printed, _, lines = capsys.readouterr().out.partition("Try this:\n")
    assert "alice@example.com with p2" in printed
    assert "Left out: the pool" in printed
    hosts = "need in /etc/hosts: 127.0.0.1 portal.vdi.localhost, and SSL_CERT_FILE="
    assert f"{hosts}{tmp_path}/pki/web-ca.crt\n" in printed
    assert len(lines.splitlines()) == 5
    assert f"vdi login {login.portal} --ca-file {tmp_path}/pki/web-ca.crt\n" in lines
