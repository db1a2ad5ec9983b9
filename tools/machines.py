"""`make machines`: fresh Debian machines under QEMU that do what a newcomer does, and a table of
the times.

    python -m tools.machines [debian-13 debian-12] [--cache FOLDER]

A machine gets the last commit, this host's settings for pip and apt, and the programs and images of
the cache folder. This file runs on both sides: on the host, and with `--guest` as root in the
machine, whose Python has no other package. Logs are in build/machines. Exit status: 0 each step
succeeded, 1 one failed, 3 no machine can be made here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if sys.argv[1:] != ["--guest"]:
    from vdi.devcluster import host_settings
    from vdi.devcluster.binaries import packages
    from vdi.devcluster.build_cache import BuildCache, SourceFailed, default_cache
    from vdi.devcluster.progress import Progress, Step, StepFailed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "machines"
MIRROR, SUITES = "http://deb.debian.org/debian", {"debian-13": "trixie", "debian-12": "bookworm"}
# Programs that are needed here, and their packages.
TOOLS = {
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
}
PACKAGES = (  # what an installer brings, and what README requires
    "systemd,systemd-sysv,systemd-resolved,libpam-systemd,udev,dbus,iproute2,iptables,procps,kmod,ca-certificates,curl,"
    "linux-image-amd64,sudo,git,make,python3,python3-venv"
)
# An emulated processor takes 8 to 15 times as long.
_LIMIT_SECONDS, _EMULATED_TIMEOUT_FACTOR = 2 * 3600.0, 20
# Of a cache: packages of this host's own kind.
_NOT_HANDED_IN = re.compile("^(machine|release)-|-(debian|ubuntu)-")
_CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"

USER, HOME, HANDED_IN = "newcomer", "/home/newcomer", "/media/handed-in"
LOGS, STATE = Path("/var/log/vdi-machine"), Path("/var/lib/vdi-machine-restarted")

_DEMO_STATE = f"{HOME}/.local/state/vdi/demo"
_KUBECTL = f"{_DEMO_STATE}/tools/kubectl --kubeconfig {_DEMO_STATE}/kubeconfig -n vdi-sessions"
# Again after a TLS handshake that took an emulated API server longer than kubectl's 10 s.
_READY = (
    f"timeout 1200 sh -c 'until {_KUBECTL} wait vdi/first --for=condition=Ready --timeout=20m; do"
    " sleep 1; done'"
)
_IN_DESKTOP = (
    f"{_KUBECTL} exec $({_KUBECTL} get vdi/first -o jsonpath='{{.status.podName}}') -- sh -c"
)
_DEMO = f"cd vdi && make demo && {_READY}"
# What a cluster could leave on a machine.
_SNAPSHOT = r"""{ ip -o link | cut -d: -f2 | grep -v veth; iptables-save | grep ^-A; ls -d /run/vdi* /etc/cni /opt/cni \
  /etc/containerd /var/lib/kubelet /var/lib/containerd ~newcomer/.local/state/vdi/* /sys/fs/cgroup/*/;
  cut -d' ' -f2 /proc/self/mounts | grep -vE '^/run/(user|credentials|docker)';
  sysctl net.ipv4.ip_forward vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops;
  ps -eo comm= | grep -E '^(kube|etcd|containerd|traefik|coredns)'; true; } 2>/dev/null | sort"""
_NOTHING_LEFT = f"{_SNAPSHOT} | diff /root/before -"
_INSTALL_DOCKER = f"""set -e; apt-get -qq update
apt-get -qq install --yes docker.io $(apt-cache pkgnames docker-cli | grep -x docker-cli)
image=$(docker load --input {HOME}/.cache/vdi/image-base-*/image.tar)
docker run --detach --restart=always --name=neighbour "${{image##* }}" sleep infinity"""
_NEIGHBOUR = "docker inspect --format '{{.State.Status}} {{.State.StartedAt}}' neighbour"
_DOCKER_RUNS = (
    "systemctl is-active docker && docker exec neighbour bash -c 'exec"
    " 3<>/dev/tcp/deb.debian.org/80'"
)

# Name, who types it (in the home directory), and the command.
STEPS: tuple[tuple[str, str, str], ...] = (
    ("git clone", USER, f"git clone --quiet {HANDED_IN}/vdi.bundle vdi"),
    ("make setup", USER, "cd vdi && make setup"),
    ("look at the machine", "root", f"{_SNAPSHOT} > /root/before"),
    ("make demo", USER, _DEMO),
    ("make demo-down", USER, "cd vdi && make demo-down"),
    ("nothing is left", "root", _NOTHING_LEFT),
    ("install Docker", "root", _INSTALL_DOCKER),
    (
        "look at the machine with Docker",
        "root",
        f"{_SNAPSHOT} > /root/before && {_NEIGHBOUR} > /root/neighbour",
    ),
    ("make demo beside Docker", USER, _DEMO),
    ("Docker is untouched", "root", f"{_DOCKER_RUNS} && {_NEIGHBOUR} | diff /root/neighbour -"),
    ("write a file in the desktop", USER, f"{_IN_DESKTOP} 'echo kept > ~/kept.txt; sync'"),
    ("reboot", "root", "systemctl reboot"),
    (
        "vdi cluster status: dead",
        USER,
        "cd vdi && ! .venv/bin/vdi cluster status | tee ~/status && grep dead ~/status",
    ),
    ("vdi cluster up", USER, f"cd vdi && .venv/bin/vdi cluster up && {_READY}"),
    ("the file is there", USER, f"{_IN_DESKTOP} 'grep -x kept ~/kept.txt'"),
    ("make demo again", USER, f"{_DEMO} && {_IN_DESKTOP} 'grep -x kept ~/kept.txt'"),
    ("make demo-down beside Docker", USER, "cd vdi && make demo-down"),
    ("nothing is left but Docker", "root", f"{_NOTHING_LEFT} && {_DOCKER_RUNS}"),
)
_RESTART = [name for name, _, _ in STEPS].index("reboot")

_FILES = {
    "etc/hostname": "machine\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 machine\n",
    "etc/machine-id": "",  # made at the first boot
    "etc/fstab": (
        f"/dev/vda / ext4 rw\n/dev/vdb {HANDED_IN} ext4 ro\n/dev/vdc {HOME}/.cache/vdi ext4 rw\n"
    ),
    "etc/sudoers.d/newcomer": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
    "etc/systemd/system/vdi-machine.service": (
        "[Unit]\nAfter=network.target\nFailureAction=poweroff\n"
        f"[Service]\nKillMode=process\nExecStart=python3 -u {HANDED_IN}/machines.py --guest\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
}
_COMMANDS = (
    f"useradd --create-home --shell /bin/bash {USER}",
    (
        f"install --directory --owner={USER} --group={USER} {HOME}/.cache {HOME}/.cache/vdi"
        f" {HANDED_IN}"
    ),
    "systemctl enable systemd-networkd.service vdi-machine.service",
    "systemctl mask serial-getty@ttyS0.service",  # its vhangup ends what others write to the console
)


def guest() -> None:
    """All steps up to the restart, or those after it, in the machine; each is one line of JSON on
    the second port.
    """

    def report(**event: object) -> None:
        with Path("/dev/ttyS1").open("a") as port:
            port.write(json.dumps(event) + "\n")

    LOGS.mkdir(exist_ok=True)
    shutil.copytree(f"{HANDED_IN}/etc", "/etc", dirs_exist_ok=True)
    prepare = (
        f"stty -F /dev/ttyS1 raw -echo; rm -rf {HOME}/.cache/vdi/lost+found; chown -R {USER}:"
        f" {HOME}/.cache;"
    )
    subprocess.run(
        f"{prepare} until ip route | grep -q default; do sleep 1; done", shell=True, check=False
    )
    after = STATE.exists()
    STATE.touch()
    report(
        name="boot again" if after else f"boot, kernel {os.uname().release}",
        seconds=time.monotonic(),
        status=0,
    )
    exports = Path(f"{HANDED_IN}/exports").read_text()
    for name, user, command in STEPS[_RESTART + 1 :] if after else STEPS[: _RESTART + 1]:
        report(name=name)
        begin = time.monotonic()
        log = LOGS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.log"
        typed = ["su", "--login", user, "--command", f"set -o pipefail; {exports}{command}"]
        status = subprocess.run(
            ["script", "-qec", shlex.join(typed), "/dev/null"], stdout=log.open("wb")
        ).returncode
        last = log.read_text(errors="replace").splitlines()[-6:] if status else []
        report(name=name, seconds=time.monotonic() - begin, status=status, last=last)
        subprocess.run(f"cp -r {HOME}/vdi/demo.png /tmp/vdi-demo-* {LOGS}", shell=True, check=False)
    if after:
        report(done=True)
        subprocess.run(["systemctl", "poweroff"], check=True)
    signal.pause()  # this process ends with the machine


def rows(events: Sequence[dict[str, object]]) -> tuple[list[str], bool]:
    """The table of what a machine has reported, and whether every step was done and succeeded."""
    ended = {str(event["name"]): event for event in events if "status" in event}
    lines, is_ok = [], any("done" in event for event in events)
    for name in dict.fromkeys(str(event["name"]) for event in events if "name" in event):
        end = ended.get(name)
        is_failed = name != "reboot" and (end is None or end["status"] != 0)
        is_ok = is_ok and not is_failed
        result = "ok"
        if is_failed:
            result = f"status {end['status']}: {end['last']}" if end else "did not end"
        seconds = float(str(end["seconds"])) if end else 0
        lines.append(f"| {name:30} | {seconds:7.0f} s | {result} |")
    return lines, is_ok


def qemu_command(installed: Path, disks: Sequence[Path], folder: Path, *, kvm: bool) -> list[str]:
    """QEMU's command line; the kernel ends it when the program that has started it dies."""
    hardware = "-accel kvm -cpu host"
    kernel = "root=/dev/vda rw console=ttyS0 quiet mitigations=off panic=1"
    if not kvm:
        # Without instructions that QEMU emulates byte by byte or in calls: images load in two
        # thirds of the time.
        hardware = "-accel tcg,thread=multi,tb-size=1024 -cpu max,-erms,-avx,-avx2"
        # The kernel distrusts an emulated TSC; high-resolution timers cost a third more context
        # switches.
        kernel += " tsc=reliable clocksource=tsc highres=off rootdelay=60"
        kernel += " systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900"
    for image, option in zip(disks, ("cache=unsafe", "readonly=on", "cache=unsafe"), strict=True):
        hardware += (  # nothing has to reach this host's disk
            f" -drive file={image},format=raw,if=virtio,{option}"
        )
    for number, name in enumerate(("console.log", "events.jsonl")):
        hardware += (
            f" -chardev file,id=s{number},path={folder / name},append=on -serial chardev:s{number}"
        )
    # With -no-reboot a restart ends QEMU, which is started again: the machine has really been away.
    return shlex.split(
        f"setpriv --pdeathsig KILL qemu-system-x86_64 -m 8G -smp {min(os.cpu_count() or 1, 4)}"
        f" {hardware} -netdev user,id=n0 -device virtio-net-pci,netdev=n0 -device virtio-rng-pci"
        f" -display none -monitor none -no-reboot -kernel {installed / 'vmlinuz'} -initrd"
        f" {installed / 'initrd'} -append '{kernel}'"
    )


def run_machine(command: Sequence[str], folder: Path) -> list[dict[str, object]]:
    """Run the machine through its restart, or until its time is over; what it has reported."""
    deadline, events = time.monotonic() + _LIMIT_SECONDS, folder / "events.jsonl"
    for _start in range(2):
        with (folder / "qemu.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        try:
            process.wait(timeout=max(deadline - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired:
            print(f"{folder.name}: its time is over")
        finally:
            process.kill()  # what is on its disks is thrown away but for the logs
            process.wait()
        reported = (
            [json.loads(line) for line in events.read_text().splitlines()]
            if events.exists()
            else []
        )
        if {"name": "reboot"} not in reported:
            break
    return reported


def install(name: str, build_cache: BuildCache) -> Path:
    """The folder with `disk.img`, `vmlinuz` and `initrd` of a fresh installation, from the cache or
    made now.
    """

    def make(step: Step, into: Path) -> None:
        tree = into / "tree"
        step.run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={PACKAGES}",
                SUITES[name],
                tree,
                MIRROR,
            ]
        )
        for file, text in _FILES.items():
            (tree / file).write_text(text)
        for command in _COMMANDS:
            step.run(["chroot", tree, *command.split()])
        for file in ("vmlinuz", "initrd"):
            shutil.copyfile(next((tree / "boot").glob(f"{file}*")), into / file)
        step.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, into / "disk.img", "24G"])
        shutil.rmtree(tree)

    key = f"machine-{name}-{hashlib.sha256(json.dumps([PACKAGES, _FILES, _COMMANDS]).encode()).hexdigest()[:10]}"
    entry = build_cache.obtain(key, f"Install {name} on a disk", make)
    for old in set(build_cache.folder.glob(f"machine-{name}-*")) - {entry}:
        shutil.rmtree(old, ignore_errors=True)
    return entry


def hand_in(step: Step, folder: Path, suite: str, *, kvm: bool) -> None:
    """The project's last commit, this file, and this host's package servers, certificates and
    proxy.
    """
    step.run(["git", "-C", ROOT, "bundle", "create", folder / "vdi.bundle", "HEAD"])
    shutil.copyfile(__file__, folder / "machines.py")
    (folder / "exports").write_text(
        "" if kvm else f"export VDI_TIMEOUT_FACTOR={_EMULATED_TIMEOUT_FACTOR}; "
    )
    pip = host_settings.pip_settings(os.environ, host_settings.pip_files(os.environ, Path.home()))
    ca = host_settings.find_ca(os.environ, pip)
    files = {
        "etc/apt/sources.list": host_settings.debian_sources(host_settings.apt_targets(), suite),
        "etc/apt/apt.conf.d/90host": host_settings.apt_settings(host_settings.apt_dump()),
        "etc/pip.conf": pip_conf(pip, has_ca=ca is not None),
        "etc/environment": [
            f"{name}={os.environ.get(name, '')}" for name in host_settings.PROXY_VARIABLES
        ],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    if ca is not None:
        (folder / _CA_BUNDLE).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ca, folder / _CA_BUNDLE)


def pip_conf(settings: dict[str, str], *, has_ca: bool) -> list[str]:
    """The lines of pip's configuration in a machine; folders of this host are not there."""
    names = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    lines = [f"{name} = {' '.join(settings[name].split())}" for name in names if settings.get(name)]
    return ["[global]", *lines, *[f"cert = /{_CA_BUNDLE}"] * has_ca]


def run_all(names: Sequence[str], cache: Path) -> bool:
    """One machine after another; whether each did everything."""
    # The device alone says too little: it is there on processors without virtualization too.
    can_virtualize = {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
    kvm, all_ok = bool(can_virtualize) and os.access("/dev/kvm", os.R_OK | os.W_OK), True
    shutil.rmtree(RESULTS, ignore_errors=True)
    with Progress(RESULTS / "host") as progress:
        build_cache = BuildCache(progress, default_cache(os.environ))
        with progress.step("Look for QEMU and debootstrap") as step:
            if missing := sorted(
                {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
            ):
                packages.install(step, missing)
        for name in names:
            folder, installed = RESULTS / name, install(name, build_cache)
            folder.mkdir(parents=True)
            with build_cache.scratch() as scratch:
                disks = [scratch / f"{disk}.img" for disk in ("root", "handed-in", "cache")]
                with progress.step(f"Make the disks of {name}") as step:
                    for disk, size in zip(disks[1:], ("128M", "12G"), strict=True):
                        (tree := disk.with_suffix("")).mkdir()
                        if disk == disks[1]:
                            hand_in(step, tree, SUITES[name], kvm=kvm)
                        elif entries := [
                            path
                            for path in cache.glob("*-amd64")
                            if not _NOT_HANDED_IN.search(path.name)
                        ]:
                            step.run(["cp", "-rt", tree, *entries])
                        step.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, disk, size])
                    step.run(
                        [
                            "cp",
                            "--sparse=always",
                            "--reflink=auto",
                            installed / "disk.img",
                            disks[0],
                        ]
                    )
                with progress.step(f"Run {name}, {'KVM' if kvm else 'emulated'}"):
                    events = run_machine(qemu_command(installed, disks, folder, kvm=kvm), folder)
                with progress.step(f"Fetch the logs of {name}") as step:
                    step.run(["debugfs", "-R", f"rdump {LOGS} {folder}", disks[0]])
            lines, is_ok = rows(events)
            print(
                f"\n{name}: {'ok' if is_ok else f'failed; logs are in {folder}'}", *lines, sep="\n"
            )
            all_ok = all_ok and is_ok
    return all_ok


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.machines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("machines", nargs="*", help=", ".join(SUITES))
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache(os.environ),
        help="folder with programs and images",
    )
    options = parser.parse_args(argv)
    if unknown := set(options.machines) - set(SUITES):
        parser.error(
            f"no machine is named {', '.join(sorted(unknown))}; allowed: {', '.join(SUITES)}"
        )
    if os.geteuid() != 0 or os.uname().machine != "x86_64":
        print("tools.machines: needs root (sudo make machines) on an amd64 host", file=sys.stderr)
        return 3
    try:
        return 0 if run_all(options.machines or list(SUITES), options.cache) else 1
    except (packages.PackagesUnavailable, SourceFailed, StepFailed) as error:
        print(f"tools.machines: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    if sys.argv[1:] == ["--guest"]:
        guest()
    else:
        sys.exit(main())
