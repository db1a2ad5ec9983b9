"""`make machines`: QEMU's command line, the run through a restart, and the table; the machines run nightly."""

import json
from pathlib import Path

import pytest

from tools import machines

BOOT: dict[str, object] = {"name": "boot", "seconds": 90.0, "status": 0}
REBOOT: dict[str, object] = {"name": "reboot"}
SETUP: dict[str, object] = {"name": "make setup", "seconds": 61.2, "status": 0}
FAILED: dict[str, object] = {"name": "make setup", "seconds": 3.0, "status": 2, "last": ["no pip"]}


def test_every_step_done_is_ok() -> None:
    lines, is_ok = machines.rows([BOOT, {"name": "make setup"}, SETUP, REBOOT, {"done": True}])
    assert is_ok
    assert [line.split("|")[1:4] for line in lines][1] == [f" {'make setup':30} ", "      61 s ", " ok "]


@pytest.mark.parametrize(
    ("events", "result"),
    [
        ([{"name": "make setup"}, FAILED, {"done": True}], "status 2: ['no pip']"),
        ([{"name": "make setup"}, {"done": True}], "did not end"),
    ],
)
def test_a_failed_step_is_named(events: list[dict[str, object]], result: str) -> None:
    lines, is_ok = machines.rows([BOOT, *events])
    assert not is_ok
    assert result in lines[-1]


def test_a_machine_that_stops_early_failed() -> None:
    assert not machines.rows([BOOT, SETUP])[1]


@pytest.mark.parametrize("kvm", [True, False])
def test_only_the_handed_in_disk_is_read_only(kvm: bool, tmp_path: Path) -> None:
    command = machines.qemu_command(tmp_path, [Path("a"), Path("b"), Path("c")], tmp_path, kvm=kvm)
    drives = [word for word in command if word.startswith("file=")]
    assert ["readonly=on" in drive for drive in drives] == [False, True, False]
    assert ("kvm" in command) is kvm
    assert ("rootdelay" in command[-1]) is not kvm


def test_a_machine_that_restarts_runs_again_once(tmp_path: Path) -> None:
    command = ["sh", "-c", f"echo '{json.dumps(REBOOT)}' >> {tmp_path}/events.jsonl"]
    assert machines.run_machine(command, tmp_path) == [REBOOT, REBOOT]


def test_a_machine_whose_time_is_over_is_ended(tmp_path: Path) -> None:
    assert machines.run_machine(["sleep", "1000"], tmp_path, limit_s=0.0) == []


def test_pip_reads_no_folder_of_the_host() -> None:
    settings = {"index-url": "https://packages.example.com/simple", "find-links": "/opt/wheels", "cert": "/opt/ca.crt"}
    assert machines.pip_conf(settings, has_ca=True) == [
        "[global]",
        "index-url = https://packages.example.com/simple",
        "cert = /etc/ssl/certs/ca-certificates.crt",
    ]
