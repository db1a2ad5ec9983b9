"""A network of its own with a real turnserver, peers that echo, and attacks on it; writes the
result of each as JSON.

`unshare --net python -m cluster.turn_lab FOLDER`: in FOLDER are `config` (the chart's start.sh and
turnserver.conf), `auth` and `tls` (the Secrets' keys as files), `run` (writable) and `plan.json`.
"""

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.turn_client import TCP, Over, TurnClient, make_credentials

NODE = "192.0.2.10"
POD = "10.42.3.7"
INNER = {
    "loopback": "127.0.0.1",
    "metadata service": "169.254.169.254",
    "API server": "10.43.0.1",
    "another node": "192.168.1.11",
    "the node itself": NODE,
    "public address": "203.0.113.9",
}
INNER6 = {"loopback, IPv6": "::1", "unique local": "fd00::1", "public address, IPv6": "2001:db8::9"}
DISGUISED = {
    "loopback, mapped": "::ffff:127.0.0.1",
    "metadata service, mapped": "::ffff:169.254.169.254",
    "API server, mapped": "::ffff:10.43.0.1",
    "API server, compatible": "::10.43.0.1",
    "API server, NAT64": "64:ff9b::10.43.0.1",
    "API server, 6to4": "2002:a2b:1::1",
    "link-local": "fe80::1",
}
NOWHERE = {"no address": "0.0.0.0", "multicast": "224.0.0.1", "broadcast": "255.255.255.255"}
ECHO = 7007


def set_up_network() -> None:
    """The addresses of a node, a pod and everything that must not be reached, all in this
    namespace.
    """
    commands = [
        "link set lo up",
        "link add turn0 type veth peer name turn1",
        "link set turn0 up",
        "link set turn1 up",
    ]
    fixed = [
        each
        for each in (*INNER.values(), *INNER6.values(), POD)
        if not ipaddress.ip_address(each).is_loopback
    ]
    commands += [f"addr add {each} dev turn0{' nodad' if ':' in each else ''}" for each in fixed]
    commands += ["addr add 2001:db8::10 dev turn0 nodad"]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


class Peers:
    """Somebody at every address, who counts what arrives and sends it back."""

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}
        for address in (*INNER.values(), *INNER6.values(), POD):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            one = socket.socket(family, socket.SOCK_DGRAM)
            one.bind((address, ECHO))
            self.heard[address] = 0
            threading.Thread(target=self._echo, args=(address, one), daemon=True).start()

    def _echo(self, address: str, own: socket.socket) -> None:
        while True:
            data, sender = own.recvfrom(4096)
            self.heard[address] += 1
            own.sendto(data, sender)


@contextlib.contextmanager
def running(command: list[str], log: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that leads to a TURN server on this port."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 15
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not answer:\n{log.read_text()}")
        yield process
    finally:
        process.kill()
        process.wait()


def turnserver(
    folder: Path, port: int
) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
    """The real server as the chart starts it: as no one, without any capability, by start.sh."""
    script = (folder / "config/start.sh").read_text()
    for there, here in (
        ("/etc/coturn-auth", "auth"),
        ("/etc/coturn-tls", "tls"),
        ("/etc/coturn", "config"),
        ("/run/coturn", "run"),
    ):
        script = script.replace(there, str(folder / here))
        config = folder / "config/turnserver.conf"
        config.write_text(config.read_text().replace(f"{there}/", f"{folder / here}/"))
    no_one = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        "-all",
        "--no-new-privs",
    ]
    rights = ["setpriv", *no_one] if os.environ.get("TURN_LAB_ROOT") else []
    return running([*rights, "sh", "-c", script], folder / "log", port)


def udp_entry_point(
    program: str, folder: Path, port: int, behind: int
) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
    """A real Traefik with a UDP entry point that leads to the server, as the chart's
    IngressRouteUDP makes it.
    """
    service = {"loadBalancer": {"servers": [{"address": f"{NODE}:{behind}"}]}}
    routes = {
        "udp": {
            "routers": {"turn": {"entryPoints": ["turn"], "service": "turn"}},
            "services": {"turn": service},
        }
    }
    (folder / "routes").mkdir()
    (folder / "routes/turn.yaml").write_text(json.dumps(routes))  # JSON is YAML
    static = {
        "entryPoints": {"turn": {"address": f":{port}/udp"}},
        "providers": {"file": {"directory": str(folder / "routes")}},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    (folder / "traefik.yaml").write_text(json.dumps(static))
    return running([program, f"--configFile={folder}/traefik.yaml"], folder / "traefik.log", port)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), TurnClient((NODE, port), wait=0.2) as client:
        return client.allocate().code is not None
    return False


class Attacker:
    """One who has credentials, good ones or bad ones, and tries things."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self._users = 0

    def client(
        self, *, user: str = "", secret: str = "", lasts: float = 60, over: Over = "udp"
    ) -> TurnClient:
        """A client with credentials of a user of its own."""
        self._users += 1
        who = make_credentials(
            secret or self.plan["secret"], user or f"session-{self._users}", time.time() + lasts
        )
        return TurnClient((NODE, self.plan["tlsPort" if over == "tls" else "port"]), who, over=over)

    def allocates(self, *, secret: str = "", lasts: float = 60, over: Over = "udp") -> str:
        """The result of an allocation with these credentials."""
        with self.client(secret=secret, lasts=lasts, over=over) as client:
            return outcome(client.allocate().code)

    def reaches(self, address: str, *, over: Over = "udp") -> str:
        """The result of relaying to an address: by permission, by channel, and without asking."""
        with self.client(over=over) as client:
            if (code := client.allocate(family=2 if ":" in address else None).code) != 0:
                return f"allocation: {outcome(code)}"
            codes = [client.permit(address, ECHO).code, client.bind(address, ECHO).code]
            client.send(address, ECHO, b"hello")
            if codes == [0, 0]:
                return "relayed" if client.receive() == b"hello" else "permitted, no echo"
            return " ".join(dict.fromkeys(outcome(code) for code in codes))

    def tries(self, who: tuple[str, str]) -> str:
        """The result of an allocation with this user name and this password."""
        with TurnClient((NODE, self.plan["port"]), who) as client:
            return outcome(client.allocate().code)

    def credentials(self) -> dict[str, str]:
        """Good ones, bad ones, none."""
        found = {
            name: self.allocates(secret=secret) for name, secret in self.plan["secrets"].items()
        }
        found["expired"] = self.allocates(lasts=-5)
        with TurnClient((NODE, self.plan["port"])) as client:
            found["none"] = outcome(client.allocate().code)
        return found

    def through_traefik(self, folder: Path) -> str:
        """The result of relaying to a pod for a client that knows Traefik's port alone."""
        known = self.plan["port"]
        with udp_entry_point(self.plan["traefik"], folder, 3999, known):
            self.plan["port"] = 3999
            try:
                return self.reaches(POD)
            finally:
                self.plan["port"] = known

    def peers(self) -> dict[str, str]:
        """Every address there is in the lab, and those that are another in disguise."""
        found = {
            name: self.reaches(address)
            for name, address in (INNER | INNER6 | DISGUISED | NOWHERE).items()
        }
        for name in ("loopback, mapped", "API server, mapped"):
            with self.client() as client:
                client.allocate()
                found[f"{name}, from an IPv4 relay"] = outcome(
                    client.permit(DISGUISED[name], ECHO).code
                )
        return found

    def tcp_relay(self) -> dict[str, str]:
        """The result of requesting TCP beyond the server (RFC 6062)."""
        with self.client(over="tcp") as client:
            asked = client.allocate(transport=TCP).code
        with self.client() as client:
            client.allocate()
            joined = client.connect("10.43.0.1", ECHO).code
        return {"allocation for TCP": outcome(asked), "CONNECT to the API server": outcome(joined)}

    def at_once(self, asked: int, *, user: str = "") -> list[str]:
        """Ask for so many allocations at once, all of one user or each of another, and count what
        comes of it.
        """
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(self.client(user=user)) for _ in range(asked)]
            return [outcome(client.allocate().code) for client in clients]

    def third_party(self) -> str:
        """coturn's own client, which echoes through the server: lost packets in its words."""
        name, password = make_credentials(self.plan["secret"], "third-party", time.time() + 60)
        words = ["-u", name, "-w", password, "-e", POD, "-r", str(ECHO), "-n", "5", "-m", "1", "-c"]
        program = ["turnutils_uclient", *words, "-p", str(self.plan["port"]), NODE]
        done = subprocess.run(program, capture_output=True, text=True, timeout=20, check=False)
        lines = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if "Total lost packets" in line
        ]
        return (
            lines[-1].split("Total lost packets")[1].strip() if lines else done.stdout + done.stderr
        )


def outcome(code: int | None) -> str:
    """A code as text."""
    return "silence" if code is None else "allowed" if code == 0 else str(code)


def main(folder: Path) -> None:
    """Carry the plan out."""
    plan = json.loads((folder / "plan.json").read_text())
    set_up_network()
    peers = Peers()
    found: dict[str, Any] = {}
    with turnserver(folder, plan["port"]) as process:
        attacker = Attacker(plan)
        checks: dict[str, Callable[[], object]] = {
            "credentials": attacker.credentials,
            "given": lambda: attacker.tries(tuple(plan["given"])),
            "session pod": lambda: {
                over: attacker.reaches(POD, over=over) for over in plan["over"]
            },
            "third party's client": attacker.third_party,
            "traefik": lambda: attacker.through_traefik(folder),
            "peers": attacker.peers,
            "tcp relay": attacker.tcp_relay,
            "one user": lambda: attacker.at_once(plan["asked"], user="alice"),
            "all users": lambda: attacker.at_once(plan["asked"]),
        }
        found = {name: checks[name]() for name in plan["checks"]}
        found["arguments"] = Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")
        found["status"] = Path(f"/proc/{process.pid}/status").read_text()
        found["heard"] = {
            address: count for address, count in peers.heard.items() if address != POD
        }
    found["log"] = (folder / "log").read_text()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
