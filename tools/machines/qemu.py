"""QEMU: one machine from its first start to its end, through a restart, with its report read as it is written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.machines.report import MachineReport

_POLL_SECONDS, _TERMINATE_SECONDS = 0.2, 10.0
_MAX_RESTARTS = 1
_EMULATED_BOOT_SECONDS = 900
_EMULATED_ROOT_DELAY_SECONDS = 60
"""How long the initial RAM disk sleeps before it looks for the disk, and how long it then waits at most."""
_EMULATED_PROCESSOR = "max,-erms,-avx,-avx2"
"""Without the instructions that QEMU emulates byte by byte (`rep movsb`) or in calls of its own (AVX): programs and
kernel then copy with others, and an image is loaded in two thirds of the time."""
_SYSTEMD_LIMITS = ("timeout_start", "device_timeout")


@dataclass(frozen=True)
class Hardware:
    """What a machine is made of."""

    kernel: Path
    initrd: Path
    disks: tuple[tuple[Path, bool], ...]
    """Images, and whether the machine may write to them."""
    folder: Path
    """Where `console.log` and `events.jsonl` are written."""
    has_kvm: bool
    processors: int
    memory: str = "8G"


def has_kvm(device: Path, cpuinfo: str) -> bool:
    """Whether the processor can run machines by itself, and we may use that.

    The device alone says too little: it is there on processors without virtualization too.
    """
    flags = {flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split()}
    return bool(flags & {"vmx", "svm"}) and os.access(device, os.R_OK | os.W_OK)


def command(hardware: Hardware) -> list[str]:
    """QEMU's command line. The kernel ends the program when the one that has started it dies."""
    emulated = "tcg,thread=multi,tb-size=1024", _EMULATED_PROCESSOR
    accelerator, processor = ("kvm", "host") if hardware.has_kvm else emulated
    words = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", accelerator, "-cpu", processor]
    words += ["-smp", str(hardware.processors), "-m", hardware.memory]
    for image, is_writable in hardware.disks:
        # What is on the disks is thrown away: no write has to reach this host's disk.
        options = "cache=unsafe" if is_writable else "readonly=on"
        words += ["-drive", f"file={image},format=raw,if=virtio,{options}"]
    words += ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network", "-device", "virtio-rng-pci"]
    words += ["-display", "none", "-monitor", "none"]
    for number, name in enumerate(("console.log", "events.jsonl")):
        words += ["-chardev", f"file,id=serial{number},path={hardware.folder / name},append=on"]
        words += ["-serial", f"chardev:serial{number}"]
    words += ["-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd)]
    # A restart ends QEMU, and it is started again: the machine has really been away.
    parameters = ["root=/dev/vda", "rw", "console=ttyS0", "quiet", "mitigations=off"]
    parameters.append("panic=1")  # a restart, and so an end, where there would be a shell for no one
    if not hardware.has_kvm:
        # The kernel distrusts an emulated TSC, and takes the HPET: each look at the clock waits for the whole machine.
        parameters += ["tsc=reliable", "clocksource=tsc"]
        # An idle control plane had 3,150 context switches per second with high-resolution timers, and 2,220 without.
        parameters.append("highres=off")
        parameters.append(f"rootdelay={_EMULATED_ROOT_DELAY_SECONDS}")
        parameters += [f"systemd.default_{kind}_sec={_EMULATED_BOOT_SECONDS}" for kind in _SYSTEMD_LIMITS]
    return [*words, "-no-reboot", "-append", " ".join(parameters)]


def run(hardware: Hardware, report: MachineReport, *, limit_s: float, show: Callable[[str], None]) -> None:
    """Start the machine and read its report until it switches itself off, or the time is over."""
    (hardware.folder / "events.jsonl").touch()
    began = time.monotonic()
    deadline = began + limit_s
    with (hardware.folder / "events.jsonl").open() as events:
        while _run_once(hardware, report, events.readline, deadline, show) and report.restarts <= _MAX_RESTARTS:
            pass
    report.seconds = time.monotonic() - began


def _run_once(
    hardware: Hardware,
    report: MachineReport,
    read_line: Callable[[], str],
    deadline: float,
    show: Callable[[str], None],
) -> bool:
    """One time from on to off; whether the machine restarts."""
    restarts, started, part = report.restarts, time.monotonic(), ""
    restart_began = started
    with (hardware.folder / "qemu.log").open("ab") as log:
        process = subprocess.Popen(command(hardware), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
    try:
        has_ended = False
        while not has_ended and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_POLL_SECONDS)
                has_ended = True
            while line := read_line():
                part += line
                if part.endswith("\n"):
                    before = report.restarts
                    report.take(part, since_start_s=time.monotonic() - started)
                    restart_began = time.monotonic() if report.restarts > before else restart_began
                    part = ""
            show(report.steps[-1].name if report.steps else "boot")
    finally:
        end(process)
    if has_ended and report.restarts > restarts:
        report.has_restarted(time.monotonic() - restart_began)
        return True
    where = f"see {hardware.folder / 'console.log'} and qemu.log"
    report.end(f"QEMU ended with status {process.returncode}, {where}" if has_ended else f"its time is over, {where}")
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End QEMU, if it has not ended by itself."""
    process.terminate()
    try:
        process.wait(timeout=_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
