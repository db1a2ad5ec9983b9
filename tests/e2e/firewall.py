"""A firewall on this machine: packets are dropped, and no one is notified."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def dropped(*matches: str) -> Iterator[None]:
    """No packet that comes in and is one of these (iptables' words, such as `-p udp --sport 3478`)
    is let through.
    """
    with ExitStack() as taken_back:
        for match in matches:
            rule = ["INPUT", *match.split(), "-j", "DROP"]
            while not subprocess.run(
                ["iptables", "-w", "-D", *rule], capture_output=True, check=False
            ).returncode:
                pass  # one that a killed run has left behind
            subprocess.run(["iptables", "-w", "-I", *rule], check=True)
            taken_back.callback(subprocess.run, ["iptables", "-w", "-D", *rule], check=True)
        yield
