"""One of the pods of `helm test`: listens, or tries to connect and says what it reached. Python's
own library only.

python -c THIS '{"listen": [8080, ...]}'
python -c THIS '{"try": [{"host", "port", "expected"}, ...], "seconds": 20}'   # port 0: ask the DNS server for a name

What was reached is left as the container's last words (/dev/termination-log): a list of true and
false.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PATIENCE = 2.0
"""Seconds that a packet may take."""
QUERY = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x00\x00\x01\x00\x01"
"""A question for the address of kubernetes.default.svc, as RFC 1035 has it: any answer says that it is there."""


def reaches(host: str, port: int) -> bool:
    """Whether something there takes a connection; a refusal is what some network plugins answer
    instead of nothing.
    """
    if not port:
        return answers(name_server())
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError:
        return False
    return True


def answers(server: str) -> bool:
    """Whether a DNS server answers at all."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.sendto(QUERY, (server, 53))
            asking.recv(512)
        except OSError:
            return False
    return True


def name_server() -> str:
    """The one that this pod has to ask."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("nameserver "))


def try_all(tries: list[dict[str, Any]]) -> list[bool]:
    """All at once, since what is blocked takes its time."""
    with ThreadPoolExecutor(len(tries) or 1) as pool:
        return list(pool.map(lambda one: reaches(one["host"], one["port"]), tries))


def settle(tries: list[dict[str, Any]], seconds: float) -> list[bool]:
    """What is reached once it is as expected, or at the end: a network plugin takes a moment to
    notice a new pod.
    """
    end = time.monotonic() + seconds
    while True:
        seen = try_all(tries)
        if seen == [one["expected"] for one in tries] or time.monotonic() > end:
            return seen
        time.sleep(1)


def listen(ports: list[int]) -> None:
    """Take connections on these ports of the pod's own address, and close them, until the pod is
    deleted.
    """
    own = os.environ["POD_ADDRESS"]
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with selectors.DefaultSelector() as waiting:
        for port in ports:
            waiting.register(socket.create_server((own, port), family=family), selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                key.fileobj.accept()[0].close()  # type: ignore[union-attr]


def main() -> None:
    """What the first argument says."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    task = json.loads(sys.argv[1])
    if "listen" in task:
        listen(task["listen"])
    else:
        Path("/dev/termination-log").write_text(json.dumps(settle(task["try"], task["seconds"])))


if __name__ == "__main__":
    main()
