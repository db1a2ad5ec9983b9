"""What happens inside a machine: a newcomer's commands, one step after the other, typed on a terminal.

Started by the machine's own systemd as root, at each boot; the standard library of the machine's Python is all it has.
Reports each step as one line of JSON on the second serial port, and writes what the commands print to the first one and
to `LOGS`. `python3 guest.py` reads `config.json` beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

USER, PASSWORD = "newcomer", "new-comer"
HOME = Path("/home") / USER
CHECKOUT = HOME / "vdi"
LOGS = Path("/var/log/vdi-machine")
STATE = Path("/var/lib/vdi-machine.json")
"""Which part comes at the next boot, and what the parts have to tell each other."""

KUBECONFIG = HOME / ".local/state/vdi/demo/kubeconfig"
TOOLS = HOME / ".local/state/vdi/demo/tools"
SESSION, NAMESPACE = "first", "vdi-sessions"
KEPT_TEXT = "written before the machine restarted"
NEIGHBOUR = "neighbour"

_CONNECT_SECONDS, _NO_HANDSHAKE = 300.0, "TLS handshake timeout"
_SUDO_PROMPT = re.compile(rb"\[sudo\][^\n]*: ?$|[Pp]assword[^\n]*: ?$")
_TUNABLES = ("net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_OTHERS_MOUNTS = ("/run/user", "/run/credentials", "/run/docker")
"""Mounts of logins, units and Docker's containers, which come and go with a restart."""
_FOLDERS = ("/etc/cni", "/etc/containerd", "/opt/cni", "/opt/containerd", "/var/lib/kubelet", "/var/lib/containerd")


def log_name(step: str) -> str:
    """The name of a step's log."""
    return f"{re.sub(r'[^a-z0-9]+', '-', step.lower()).strip('-')}.log"


class StepFailedError(Exception):
    """Raised when a step did not do what it should; says what was seen."""


class Report:
    """The second serial port: one line of JSON for each thing that happened."""

    def __init__(self, port: Path) -> None:
        self._port = port

    def write(self, **entry: object) -> None:
        with self._port.open("a") as port:
            port.write(json.dumps(entry) + "\n")


class Machine:
    """The commands of the newcomer and of root, each with a log."""

    def __init__(self, report: Report, console: Path, config: dict[str, object]) -> None:
        self.report, self.config = report, config
        self._console = console
        self._log = LOGS / "machine.log"
        self.failed = False

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step: its time and result are reported; what it raises ends the step, not the machine."""
        self._log = LOGS / log_name(name)
        self.say(f"== {name}")
        self.report.write(step=name, state="running")
        begin = time.monotonic()
        try:
            yield
        except (StepFailedError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            self.failed = True
            self.say(f"== {name} FAILED: {error}")
            self.report.write(step=name, state="failed", seconds=time.monotonic() - begin, message=str(error))
        else:
            self.report.write(step=name, state="ok", seconds=time.monotonic() - begin)

    def say(self, text: str) -> None:
        self._write(text.encode() + b"\n")

    def _write(self, data: bytes) -> None:
        with self._log.open("ab") as log:
            log.write(data)
        with self._console.open("ab") as console:
            console.write(data.replace(b"\n", b"\r\n"))

    def newcomer(self, command: str, *, check: bool = True) -> tuple[int, str]:
        """Type `command` into a login shell of the newcomer, who answers sudo's question with the password."""
        self.say(f"{USER}$ {command}")
        exports = (
            f"export VDI_TIMEOUT_FACTOR={self.config['timeout_factor']}; " if self.config.get("timeout_factor") else ""
        )
        process, terminal = pty.fork()
        if process == 0:
            os.execvp("su", ["su", "--login", USER, "--session-command", f"{exports}{command}"])
        output, recent = bytearray(), b""
        while True:
            ready, _, _ = select.select([terminal], [], [], 60.0)
            if not ready:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the last process has closed the terminal
                break
            if not data:
                break
            output += data
            self._write(data)
            recent = (recent + data)[-200:]
            if _SUDO_PROMPT.search(recent):
                os.write(terminal, PASSWORD.encode() + b"\n")
                recent = b""
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        text = output.decode(errors="replace").replace("\r\n", "\n")
        if check and status != 0:
            raise StepFailedError(f"`{command}` ended with status {status}: {' | '.join(text.splitlines()[-6:])}")
        return status, text

    def root(self, *argv: str, check: bool = True) -> str:
        """Run a program as root, for looking and for preparing the machine; one that is not there fails."""
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            done = subprocess.CompletedProcess(argv, 127, "", f"{error}\n")
        self.say(f"root# {' '.join(argv)}\n{done.stdout}{done.stderr}".rstrip())
        if check and done.returncode != 0:
            raise StepFailedError(f"`{' '.join(argv)}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def kubectl(self, *words: str) -> str:
        """Run kubectl as the newcomer; again after a TLS handshake that took longer than its 10 s."""
        command = ("runuser", "-u", USER, "--", str(TOOLS / "kubectl"), "--kubeconfig", str(KUBECONFIG), *words)
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return self.root(*command)
            except StepFailedError as error:
                if _NO_HANDSHAKE not in str(error) or time.monotonic() > deadline:
                    raise


def main() -> None:
    here = Path(__file__).parent
    LOGS.mkdir(exist_ok=True)
    config = json.loads((here / "config.json").read_text())
    subprocess.run(["stty", "-F", "/dev/ttyS1", "raw", "-echo"], check=False)
    machine = Machine(Report(Path("/dev/ttyS1")), Path("/dev/ttyS0"), config)
    machine.report.write(booted=True)
    state = json.loads(STATE.read_text()) if STATE.exists() else {"part": "before"}
    try:
        if state["part"] == "before":
            before_restart(machine, here)
        else:
            after_restart(machine, state["before"])
    except Exception:
        # Between two steps: without this word the host would wait until the machine's time is over.
        machine.say(traceback.format_exc())
        machine.report.write(step="between two steps", state="running")
        machine.report.write(step="between two steps", state="failed", seconds=0.0, message=traceback.format_exc(-1))
        machine.root("systemctl", "poweroff")


def before_restart(machine: Machine, handed_in: Path) -> None:
    """A machine that has nothing; the demo, twice; a neighbour; the restart."""
    with machine.step("settings of the host"):
        machine.report.write(facts=facts())
        take_settings(machine, handed_in)
        take_cache(machine)
        wait_for_network(machine)
    with machine.step("git clone"):
        machine.newcomer(f"git clone --quiet {handed_in}/vdi.bundle {CHECKOUT}")
    with machine.step("make setup"):
        machine.newcomer(f"cd {CHECKOUT} && make setup")
    before = snapshot(machine)
    with machine.step("make demo"):
        machine.newcomer(f"cd {CHECKOUT} && make demo")
        look_at_demo(machine)
    keep_logs(machine, "first")
    with machine.step("make demo-down"):
        machine.newcomer(f"cd {CHECKOUT} && make demo-down")
        require_same(before, snapshot(machine))
    with machine.step("install Docker"):
        install_docker(machine)
    before, neighbour = snapshot(machine), look_at_neighbour(machine)
    with machine.step("make demo beside Docker"):
        machine.newcomer(f"cd {CHECKOUT} && make demo")
        look_at_demo(machine)
    keep_logs(machine, "second")
    with machine.step("Docker is untouched"):
        require_neighbour(machine)
        if (now := look_at_neighbour(machine)) != neighbour:
            raise StepFailedError(f"Docker's container was {neighbour}, and is {now}")
    with machine.step("write a file in the desktop"):
        write_file(machine)
    STATE.write_text(json.dumps({"part": "after", "before": before}))
    machine.report.write(restart=True)
    machine.newcomer("sudo reboot", check=False)
    signal.pause()  # this process ends with the machine


def after_restart(machine: Machine, before: object) -> None:
    """The demo is dead; it is started again, and has what it had."""
    with machine.step("vdi cluster status: dead"):
        wait_for_network(machine)
        status, text = machine.newcomer(f"cd {CHECKOUT} && .venv/bin/vdi cluster status", check=False)
        if status != 1 or "dead" not in text:
            raise StepFailedError(f"`vdi cluster status` should say dead with status 1, not {status}: {text.strip()}")
    with machine.step("vdi cluster up"):
        machine.newcomer(f"cd {CHECKOUT} && .venv/bin/vdi cluster up")
    with machine.step("the file is there"):
        look_at_demo(machine)
        require_file(machine)
    with machine.step("make demo again: the same login"):
        machine.newcomer(f"cd {CHECKOUT} && make demo")
        require_file(machine)
    keep_logs(machine, "third")
    with machine.step("make demo-down beside Docker"):
        machine.newcomer(f"cd {CHECKOUT} && make demo-down")
        require_same(before, snapshot(machine))
        require_neighbour(machine)
    machine.report.write(done=True)
    machine.root("systemctl", "poweroff")


def wait_for_network(machine: Machine) -> None:
    machine.root("sh", "-c", "until ip route | grep -q default; do sleep 1; done")


def facts() -> dict[str, str]:
    """What kind of machine this is."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {
        "machine": release["PRETTY_NAME"].strip('"'),
        "kernel": os.uname().release,
        "cgroup": "v2" if v2 else "v1 or hybrid",
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def take_settings(machine: Machine, handed_in: Path) -> None:
    """The package servers that the host uses, its certificate authorities and its settings for pip and apt."""
    for source in sorted((handed_in / "etc").rglob("*")):
        if source.is_file():
            target = Path("/etc") / source.relative_to(handed_in / "etc")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    machine.root("systemctl", "--failed", "--no-pager", check=False)


def take_cache(machine: Machine) -> None:
    """The programs and images that the host has built: a disk of their own, since copying them takes minutes."""
    cache = HOME / ".cache/vdi"
    machine.root("runuser", "-u", USER, "--", "mkdir", "-p", str(cache))
    with Path("/etc/fstab").open("a") as fstab:
        fstab.write(f"/dev/vdc {cache} ext4 defaults 0 2\n")
    machine.root("systemctl", "daemon-reload")
    machine.root("mount", str(cache))
    machine.root("rm", "-rf", str(cache / "lost+found"))
    machine.root("chown", "-R", f"{USER}:", str(cache))


def look_at_demo(machine: Machine) -> None:
    """Session Ready, and what runs it."""
    wait_for_session(machine)
    node = json.loads(machine.kubectl("get", "nodes", "-o", "json"))["items"][0]["status"]["nodeInfo"]
    machine.report.write(facts={"containerd": node["containerRuntimeVersion"].removeprefix("containerd://")})


def wait_for_session(machine: Machine) -> None:
    machine.kubectl("-n", NAMESPACE, "wait", f"vdi/{SESSION}", "--for=condition=Ready", "--timeout=20m")


def pod_of_session(machine: Machine) -> str:
    session = json.loads(machine.kubectl("-n", NAMESPACE, "get", f"vdi/{SESSION}", "-o", "json"))
    return str(session["status"]["podName"])


def write_file(machine: Machine) -> None:
    machine.kubectl(
        "-n", NAMESPACE, "exec", pod_of_session(machine), "--", "sh", "-c", f"echo {KEPT_TEXT} > ~/kept.txt; sync"
    )


def require_file(machine: Machine) -> None:
    text = machine.kubectl("-n", NAMESPACE, "exec", pod_of_session(machine), "--", "sh", "-c", "cat ~/kept.txt")
    if text.strip() != KEPT_TEXT:
        raise StepFailedError(f"the file holds {text!r}, not {KEPT_TEXT!r}")


def install_docker(machine: Machine) -> None:
    """The distribution's Docker as a neighbour: its services, and a container that comes back by itself."""
    machine.newcomer("sudo apt-get -qq update")
    client = " docker-cli" if machine.root("apt-cache", "show", "docker-cli", check=False) else ""
    machine.newcomer(f"sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes docker.io{client}")
    archive = next((HOME / ".cache/vdi").glob("image-base-*/image.tar"))
    image = machine.root("docker", "load", "--input", str(archive)).strip().rpartition(" ")[2]
    machine.root("docker", "run", "--detach", "--restart=always", f"--name={NEIGHBOUR}", image, "sleep", "infinity")


def look_at_neighbour(machine: Machine) -> str:
    return machine.root("docker", "inspect", "--format", "{{.State.Status}} {{.State.StartedAt}}", NEIGHBOUR).strip()


def require_neighbour(machine: Machine) -> None:
    """Services and container run, and the container reaches the network."""
    for service in ("docker", "containerd"):
        machine.root("systemctl", "is-active", service)
    if not (seen := look_at_neighbour(machine)).startswith("running "):
        raise StepFailedError(f"Docker's container is {seen}")
    machine.root("docker", "exec", NEIGHBOUR, "bash", "-c", "exec 3<>/dev/tcp/deb.debian.org/80")


def snapshot(machine: Machine) -> dict[str, list[str]]:
    """What a cluster could leave on the machine."""
    links = [line.split()[1].partition("@")[0].rstrip(":") for line in machine.root("ip", "-o", "link").splitlines()]
    rules = [line for line in machine.root("iptables-save", check=False).splitlines() if line.startswith("-A")]
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    processes = machine.root("ps", "-eo", "comm=").split("\n")
    return {
        "links": sorted(link for link in links if not link.startswith("veth")),
        "rules": sorted(rules),
        "mounts": sorted(mount for mount in mounts if not mount.startswith(_OTHERS_MOUNTS)),
        "cgroups": sorted(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()),
        "run": sorted(str(path) for path in Path("/run").glob("vdi*")),
        "tunables": [f"{name}={(Path('/proc/sys') / name).read_text().strip()}" for name in _TUNABLES],
        "folders": [path for path in _FOLDERS if Path(path).exists()],
        "state": sorted(str(path) for path in HOME.glob(".local/state/vdi/*")),
        "processes": sorted(name for name in processes if re.match("kube|etcd|containerd|traefik|coredns", name)),
    }


def require_same(before: object, after: dict[str, list[str]]) -> None:
    assert isinstance(before, dict)
    different = []
    for kind, now in after.items():
        then = before[kind]
        more, fewer = [item for item in now if item not in then], [item for item in then if item not in now]
        if more or fewer:
            different.append(f"{kind}: more {more}, fewer {fewer}")
    if different:
        raise StepFailedError("; ".join(different))


def keep_logs(machine: Machine, name: str) -> None:
    """Pictures and the logs of failed steps, for the host to fetch from the disk."""
    folder = LOGS / name
    folder.mkdir(exist_ok=True)
    for pattern in ("/tmp/vdi-demo-*", str(HOME / ".local/state/vdi/demo/logs")):
        for found in Path("/").glob(pattern.lstrip("/")):
            shutil.copytree(found, folder / found.name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    if (CHECKOUT / "demo.png").exists():
        shutil.move(CHECKOUT / "demo.png", folder / "demo.png")
    (folder / "journal.log").write_text(machine.root("journalctl", "--no-pager", "-b", "-n", "4000", check=False))


if __name__ == "__main__":
    main()
