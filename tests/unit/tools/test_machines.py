"""`make machines`: what a machine reports, how QEMU is run and ended, and what a newcomer types. QEMU is a stand-in."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.machines import __main__ as command
from tools.machines import disk, guest, qemu
from tools.machines.distributions import DISTRIBUTIONS
from tools.machines.guest import log_name
from tools.machines.report import MachineReport, to_json, to_tables
from vdi.devcluster.progress import Progress

ROOT = Path(__file__).parents[3]
FACTS = {"machine": "Debian GNU/Linux 13 (trixie)", "kernel": "6.12.1", "cgroup": "v2", "python": "3.13.5"}

MakeProgram = Callable[[str, str], None]


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """Puts a shell script before everything else on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def take(report: MachineReport, *events: dict[str, object], since_start_s: float = 0.0) -> None:
    for event in events:
        report.take(json.dumps(event), since_start_s=since_start_s)


def complete_report(name: str = "debian-13") -> MachineReport:
    report = MachineReport(name, facts={"processor": "emulated"}, seconds=3661.0)
    take(report, {"booted": True}, {"facts": FACTS}, since_start_s=25.0)
    take(report, {"step": "make demo", "state": "running"}, {"step": "make demo", "state": "ok", "seconds": 700.4})
    take(report, {"facts": {"containerd": "1.7.24"}}, {"restart": True})
    report.has_restarted(9.0)
    take(report, {"booted": True}, since_start_s=31.0)
    take(report, {"done": True})
    return report


def test_a_machine_that_did_everything_is_ok_and_has_the_seconds_of_each_step() -> None:
    report = complete_report()
    assert report.is_ok
    assert [(step.name, step.seconds) for step in report.steps] == [
        ("boot", 25.0),
        ("make demo", 700.4),
        ("reboot", 9.0),
        ("boot again", 31.0),
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_tables([report]).splitlines()]
    assert lines[0] == ["Machine", "Kernel", "cgroup", "containerd", "Python", "Processor", "Result", "Time"]
    assert lines[2] == [*[*FACTS.values()][:3], "1.7.24", "3.13.5", "emulated", "ok", "61 min 1 s"]
    assert lines[4] == ["Step, seconds", "debian-13"]
    assert ["make demo", "700"] in lines


def test_a_step_that_failed_is_shown_with_its_message_and_its_log() -> None:
    report = complete_report()
    step = report.steps[1]
    step.state, step.message, step.log = "failed", "no picture in 60 s", "build/machines/debian-13/make-demo.log"
    assert not report.is_ok
    text = to_tables([report, complete_report("debian-12")])
    assert "| 700 failed | 700" in text
    assert text.endswith("debian-13: make demo: no picture in 60 s\n  log: build/machines/debian-13/make-demo.log\n")
    assert json.loads(to_json([report]))["is_ok"] is False


@pytest.mark.parametrize(
    ("events", "failed"),
    [
        ([], "boot"),
        ([{"booted": True}, {"step": "make demo", "state": "running"}], "make demo"),
        ([{"booted": True}], "between two steps"),
        ([{"booted": True}, {"restart": True}], "reboot"),
    ],
)
def test_a_machine_that_stops_names_the_step_it_was_in(events: list[dict[str, object]], failed: str) -> None:
    report = MachineReport("debian-13")
    take(report, *events)
    report.end("QEMU ended with status 1")
    assert not report.is_ok
    assert [(step.name, step.message) for step in report.steps if step.state == "failed"] == [
        (failed, "QEMU ended with status 1")
    ]


def test_json_has_every_fact_and_step() -> None:
    found = json.loads(to_json([complete_report()]))
    assert found["is_ok"] is True
    assert found["machines"][0]["facts"] == FACTS | {"containerd": "1.7.24", "processor": "emulated"}
    assert found["machines"][0]["steps"][1] == {
        "name": "make demo", "state": "ok", "seconds": 700.4, "message": "", "log": "",
    }  # fmt: skip


def hardware(folder: Path, *, has_kvm: bool = False) -> qemu.Hardware:
    disks = ((folder / "root.img", True), (folder / "hand-in.img", False))
    return qemu.Hardware(folder / "vmlinuz", folder / "initrd", disks, folder, has_kvm, processors=2)


def test_kvm_is_used_where_the_processor_has_it_and_not_where_the_device_alone_is_there(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    assert qemu.has_kvm(device, "flags\t\t: fpu svm sse\n")
    assert qemu.has_kvm(device, "flags\t\t: fpu vmx sse\n")
    assert not qemu.has_kvm(device, "flags\t\t: fpu hypervisor sse\nvmx flags\t: \n")
    assert not qemu.has_kvm(tmp_path / "absent", "flags\t\t: fpu svm sse\n")


def test_the_disk_that_hands_things_in_cannot_be_written(tmp_path: Path) -> None:
    words = qemu.command(hardware(tmp_path))
    drives = [words[number + 1] for number, word in enumerate(words) if word == "-drive"]
    assert [("readonly=on" in drive, "cache=unsafe" in drive) for drive in drives] == [(False, True), (True, False)]


def test_an_emulated_machine_gives_systemd_more_time_and_one_with_kvm_does_not(tmp_path: Path) -> None:
    emulated, with_kvm = (" ".join(qemu.command(hardware(tmp_path, has_kvm=has_kvm))) for has_kvm in (False, True))
    assert "-accel tcg" in emulated and "rootdelay=60 systemd.default_timeout_start_sec=900" in emulated
    assert "-accel kvm -cpu host" in with_kvm and "=900" not in with_kvm


def test_an_emulated_machine_has_a_clock_and_copies_that_are_cheap_to_emulate(tmp_path: Path) -> None:
    emulated, with_kvm = (" ".join(qemu.command(hardware(tmp_path, has_kvm=has_kvm))) for has_kvm in (False, True))
    assert "-cpu max,-erms,-avx,-avx2 " in emulated and "clocksource=tsc highres=off" in emulated
    assert "clocksource" not in with_kvm and "highres" not in with_kvm


def run_machine(folder: Path, *, limit_s: float = 20.0) -> MachineReport:
    report = MachineReport("debian-13")
    qemu.run(hardware(folder), report, limit_s=limit_s, show=lambda _: None)
    return report


def test_a_machine_that_restarts_is_switched_on_again_once(tmp_path: Path, make_program: MakeProgram) -> None:
    make_program(
        "qemu-system-x86_64",
        f"""cd {tmp_path}
        echo '{{"booted": true}}' >> events.jsonl
        if [ -e restarted ]; then echo '{{"done": true}}' >> events.jsonl
        else touch restarted; echo '{{"restart": true}}' >> events.jsonl; fi""",
    )
    report = run_machine(tmp_path)
    assert report.is_ok
    assert [step.name for step in report.steps] == ["boot", "reboot", "boot again"]


def test_a_machine_that_restarts_for_ever_ends(tmp_path: Path, make_program: MakeProgram) -> None:
    make_program("qemu-system-x86_64", f"""echo '{{"restart": true}}' >> {tmp_path}/events.jsonl""")
    report = run_machine(tmp_path)
    assert report.restarts == 2
    assert not report.is_ok


def test_qemu_that_does_not_start_says_where_to_look(tmp_path: Path, make_program: MakeProgram) -> None:
    make_program("qemu-system-x86_64", "echo no such processor >&2; exit 1")
    report = run_machine(tmp_path)
    assert report.steps[0].message == f"QEMU ended with status 1, see {tmp_path}/console.log and qemu.log"
    assert (tmp_path / "qemu.log").read_text() == "no such processor\n"


def test_a_machine_whose_time_is_over_is_ended(tmp_path: Path, make_program: MakeProgram) -> None:
    make_program(
        "qemu-system-x86_64",
        f"""echo $$ > {tmp_path}/pid; echo '{{"booted": true}}' >> {tmp_path}/events.jsonl; exec sleep 600""",
    )
    report = run_machine(tmp_path, limit_s=1.5)
    assert report.steps[-1].message.startswith("its time is over")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


RUN = """
import sys, signal
from pathlib import Path
from tools.machines import qemu
from tools.machines.report import MachineReport
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = Path(sys.argv[1])
hardware = qemu.Hardware(folder, folder, (), folder, False, 2)
def show(step):
    (folder / "running").touch()
qemu.run(hardware, MachineReport("debian-13"), limit_s=600, show=show)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_no_qemu_is_left_whatever_ends_the_command(
    tmp_path: Path, make_program: MakeProgram, number: signal.Signals
) -> None:
    make_program("qemu-system-x86_64", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    process = subprocess.Popen([sys.executable, "-c", RUN, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        assert qemu_is(True, tmp_path, process)
        process.send_signal(number)
        process.wait(timeout=30)
        assert qemu_is(False, tmp_path, process)
    finally:
        process.kill()
        process.wait()


def qemu_is(running: bool, folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits until the stand-in runs, or does not."""
    from vdi.devcluster.processes import wait_until

    def as_expected() -> bool:
        if not (folder / "running").exists():
            assert process.poll() is None
            return False
        try:
            state = Path(f"/proc/{(folder / 'pid').read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            state = "Z"
        return (state != "Z") is running

    return wait_until(as_expected, 30.0)


def test_of_a_cache_the_demo_s_entries_are_handed_in_and_no_package_of_this_host(tmp_path: Path) -> None:
    from vdi.devcluster.binaries import entry_key
    from vdi.devcluster.binaries.components import RECIPES

    demo_entries = {f"{entry_key(RECIPES[name][-1])}-amd64" for name in ("etcd", "helm", "coredns", "traefik", "pause")}
    demo_entries |= {"image-desktop-0123456789abcdef-amd64", "image-vdi-0123456789abcdef-amd64"}
    others = {
        f"{entry_key(RECIPES['containerd'][-1])}-amd64",
        f"{entry_key(RECIPES['kwok'][-1])}-amd64",
        "image-vdi-0123456789abcdef-arm64",
        "image-postgresql-0123456789abcdef-amd64",
        "release-image-vdi-0123456789abcdef-amd64",
        "locks",
        "unfinished",
    }
    found = disk.select_entries([tmp_path / name for name in sorted(demo_entries | others)], "amd64")
    assert {entry.name for entry in found} == demo_entries


def test_pip_in_a_machine_trusts_what_this_host_trusts_and_reads_no_folder_of_it() -> None:
    settings = {"index-url": "https://packages.example.com/simple", "find-links": "/opt/wheels", "cert": "/opt/ca.crt"}
    assert disk.pip_conf(settings, has_ca=True) == [
        "[global]",
        "index-url = https://packages.example.com/simple",
        "cert = /etc/ssl/certs/ca-certificates.crt",
    ]
    assert disk.pip_conf({}, has_ca=False) == []


def test_each_distribution_has_a_disk_of_its_own_and_a_changed_recipe_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = {disk.recipe_digest(distribution) for distribution in DISTRIBUTIONS.values()}
    assert len(digests) == len(DISTRIBUTIONS)
    monkeypatch.setitem(disk._FILES, "etc/hostname", "another\n")
    assert digests.isdisjoint(disk.recipe_digest(distribution) for distribution in DISTRIBUTIONS.values())


def test_only_packages_of_what_is_missing_are_installed(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.gpg"
    tools = {"sh": "dash", "no-such-program": "its-package", str(keyring): "keyring"}
    assert disk.missing_packages(tools) == ["its-package", "keyring"]
    keyring.touch()
    assert disk.missing_packages(tools) == ["its-package"]


def test_a_file_system_is_made_of_a_folder_and_logs_are_fetched_from_it(tmp_path: Path) -> None:
    logs = tmp_path / "tree/var/log/vdi-machine"
    logs.mkdir(parents=True)
    (logs / "make-demo.log").write_text("✓ Build\n")
    with Progress(tmp_path / "logs") as progress, progress.step("Disk") as step:
        disk.make_image(step, tmp_path / "disk.img", tmp_path / "tree", "16M")
        disk.copy_disk(step, tmp_path / "disk.img", tmp_path / "copy.img")
        disk.fetch_logs(step, tmp_path / "copy.img", "/var/log/vdi-machine", tmp_path / "fetched")
    assert (tmp_path / "fetched/vdi-machine/make-demo.log").read_text() == "✓ Build\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> guest.Machine:
    monkeypatch.setattr(guest, "LOGS", tmp_path)
    for name in ("events", "console"):
        (tmp_path / name).touch()
    return guest.Machine(guest.Report(tmp_path / "events"), tmp_path / "console", {"timeout_factor": 20})


def events(machine: guest.Machine) -> list[dict[str, object]]:
    return [json.loads(line) for line in (guest.LOGS / "events").read_text().splitlines()]


def test_the_newcomer_types_the_password_that_sudo_asks_for_on_the_terminal(
    machine: guest.Machine, make_program: MakeProgram
) -> None:
    make_program(
        "su",
        """[ "$1 $2 $3" = "--login newcomer --session-command" ] || exit 9
        echo "Installing [sudo] later"
        read -rsp '[sudo] password for newcomer: ' word < /dev/tty; echo
        [ "$word" = new-comer ] && exec sh -c "$4"
        exit 1""",
    )
    with machine.step("make demo"):
        assert machine.newcomer("echo factor $VDI_TIMEOUT_FACTOR")[1].endswith("factor 20\n")
    assert events(machine)[-1]["state"] == "ok"
    assert "factor 20" in (guest.LOGS / log_name("make demo")).read_text()
    assert "new-comer" not in (guest.LOGS / log_name("make demo")).read_text()


def test_kubectl_asks_again_after_a_handshake_that_took_too_long_and_only_then(
    machine: guest.Machine, make_program: MakeProgram, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    refused = "Unable to connect to the server: net/http: TLS handshake timeout"
    answer = f"""[ -e {asked} ] && echo 'pods "first" not found' >&2 || echo '{refused}' >&2; touch {asked}; exit 1"""
    make_program("runuser", answer)
    with pytest.raises(guest.StepFailedError, match="not found"):
        machine.kubectl("get", "pod", "first")


def test_a_step_that_fails_says_why_and_the_next_one_runs(machine: guest.Machine, make_program: MakeProgram) -> None:
    make_program("su", 'exec sh -c "$4"')
    with machine.step("make demo"):
        machine.newcomer("echo no picture in 60 s; false")
    with machine.step("make demo-down"):
        assert machine.newcomer("exit 3", check=False)[0] == 3
    first, second = (event for event in events(machine) if event["state"] != "running")
    assert (first["state"], second["state"]) == ("failed", "ok")
    assert "no picture in 60 s" in str(first["message"]) and "ended with status 1" in str(first["message"])


def test_what_is_left_on_the_machine_is_named() -> None:
    before = {"links": ["eth0", "lo"], "tunables": ["net/ipv4/ip_forward=0"]}
    guest.require_same(before, {"links": ["eth0", "lo"], "tunables": ["net/ipv4/ip_forward=0"]})
    with pytest.raises(guest.StepFailedError, match=r"links: more \['vdi-demo'\], fewer \[\]; tunables: more .*=1"):
        guest.require_same(before, {"links": ["eth0", "lo", "vdi-demo"], "tunables": ["net/ipv4/ip_forward=1"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["debian-14"], "no machine is named 'debian-14'; allowed: debian-13, debian-12"),
        (["--cache", "/no/such/folder"], "'/no/such/folder' is not a folder"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is_allowed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uid", "arch", "message"), [(1000, "amd64", "debootstrap needs root"), (0, "arm64", "this host is arm64")]
)
def test_where_no_machine_can_be_made_the_exit_status_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uid: int, arch: str, message: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(command, "architecture", lambda: arch)
    assert command.main([]) == command.COULD_NOT_LOOK
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("is_ok", [True, False])
def test_the_exit_status_says_whether_each_machine_did_everything_and_the_report_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_ok: bool
) -> None:
    reports = [complete_report("debian-13"), complete_report("debian-12")]
    reports[1].is_done = is_ok
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "_run_all", lambda *_: reports)
    assert command.main(["-o", "json"]) == (0 if is_ok else 1)
    assert capsys.readouterr().out == (tmp_path / "report.json").read_text()
