"""`make machines`: virtual machines that do what a newcomer does, and a table of what came out.

    python -m tools.machines [debian-13 debian-12] [--cache FOLDER] [-o table|json]

Each machine is a fresh installation that gets the last commit, and of this host its settings for package servers and
the programs and images of a cache folder, nothing else. The report and all logs are in build/machines. Exit status: 0
each step of each machine did what it should, 1 one did not, 2 usage, 3 no machine can be made here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.machines import disk, qemu
from tools.machines.distributions import DISTRIBUTIONS, Distribution
from tools.machines.guest import LOGS, log_name
from tools.machines.report import MachineReport, to_json, to_tables
from vdi.devcluster.build_cache import BuildCache, SourceFailed, architecture, default_cache
from vdi.devcluster.packages import PackagesUnavailable
from vdi.devcluster.progress import Progress, StepFailed

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "machines"
LIMIT_SECONDS = 2 * 3600.0
"""For one machine."""
EMULATED_TIMEOUT_FACTOR = 20
"""An emulated processor takes 8 to 15 times as long; --timeout-factor of the demo in such a machine."""
COULD_NOT_LOOK = 3


class CannotMakeMachinesError(Exception):
    """Raised when no machine can be made here; says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parse(argv)
    # What ends QEMU is what follows an exception.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        reports = _run_all(options.machines or list(DISTRIBUTIONS), options.cache)
    except (CannotMakeMachinesError, PackagesUnavailable, SourceFailed) as error:
        print(f"tools.machines: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    except StepFailed as error:
        print(f"tools.machines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; no machine is left.", file=sys.stderr)
        return 130
    (RESULTS / "report.json").write_text(to_json(reports) + "\n")
    print(to_json(reports) if options.output == "json" else to_tables(reports))
    return 0 if all(report.is_ok for report in reports) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.machines",
        description="Virtual machines that do what a newcomer does.",
        epilog="example: python -m tools.machines debian-13 -o json",
    )
    parser.add_argument("machines", nargs="*", type=_machine, metavar="MACHINE", help=", ".join(DISTRIBUTIONS))
    parser.add_argument(
        "--cache",
        type=_folder,
        default=default_cache(os.environ),
        help="folder with programs and images that the machines need not build (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args(argv)


def _machine(text: str) -> str:
    if text not in DISTRIBUTIONS:
        raise argparse.ArgumentTypeError(f"no machine is named {text!r}; allowed: {', '.join(DISTRIBUTIONS)}")
    return text


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return Path(text)


def _run_all(names: Sequence[str], cache: Path) -> list[MachineReport]:
    """One machine after another. Raises CannotMakeMachinesError, PackagesUnavailable, SourceFailed, StepFailed."""
    if architecture() != "amd64":
        raise CannotMakeMachinesError(f"machines are amd64, and this host is {architecture()}")
    if os.geteuid() != 0:
        raise CannotMakeMachinesError("debootstrap needs root: sudo make machines")
    shutil.rmtree(RESULTS, ignore_errors=True)
    with Progress(RESULTS / "host") as progress:
        build_cache = BuildCache(progress, default_cache(os.environ))
        with progress.step("Look for QEMU and debootstrap") as step:
            disk.install_tools(step)
        return [_run(DISTRIBUTIONS[name], cache, build_cache) for name in names]


def _run(distribution: Distribution, cache: Path, build_cache: BuildCache) -> MachineReport:
    progress, folder = build_cache.progress, RESULTS / distribution.name
    folder.mkdir(parents=True)
    installed = disk.ensure_disk(distribution, build_cache)
    has_kvm = qemu.has_kvm(Path("/dev/kvm"), Path("/proc/cpuinfo").read_text())
    report = MachineReport(distribution.name, facts={"processor": "KVM" if has_kvm else "emulated"})
    with build_cache.scratch() as scratch:
        root, hand_in, programs = scratch / "root.img", scratch / "hand-in.img", scratch / "cache.img"
        with progress.step(f"Copy the disks of {distribution.name}") as step:
            config = {} if has_kvm else {"timeout_factor": EMULATED_TIMEOUT_FACTOR}
            disk.copy_disk(step, installed / "disk.img", root)
            disk.make_hand_in(step, hand_in, scratch, ROOT, config, distribution.suite)
            disk.make_cache_disk(step, programs, scratch, cache, build_cache.arch)
        hardware = qemu.Hardware(
            kernel=installed / "vmlinuz",
            initrd=installed / "initrd",
            disks=((root, True), (hand_in, False), (programs, True)),
            folder=folder,
            has_kvm=has_kvm,
            processors=min(os.cpu_count() or 1, 4),
        )
        with progress.step(f"Run {distribution.name}, {report.facts['processor']}") as step:
            qemu.run(hardware, report, limit_s=LIMIT_SECONDS, show=step.update)
        with progress.step(f"Fetch the logs of {distribution.name}") as step:
            disk.fetch_logs(step, root, str(LOGS), folder)
    for result in report.steps:
        if result.state != "ok":
            result.log = str(next(folder.rglob(log_name(result.name)), folder / "console.log"))
    return report


if __name__ == "__main__":
    sys.exit(main())
