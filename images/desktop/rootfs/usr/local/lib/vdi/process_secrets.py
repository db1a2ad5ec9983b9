"""Secrets in a container where the programs of the desktop's user have the same uid as the
processes that hold them.

The launcher (vdi-desktop), Selkies and vdi-agent hold some. Each runs with
/opt/selkies/bin/python3, which may be executed but not read: the kernel makes such a process
non-dumpable from its first instruction on, so there is no moment in which another process of the
uid could trace it. `forbid_inspection` does the same where a kernel does not (gVisor). The launcher
also holds the ports: a process that ends must not leave its port, and the tokens sent to it, to
others.
"""

import ctypes
import errno
import hmac
import json
import os
import socket
from hashlib import sha256
from typing import Any

SECRETS_FD, SOCKET_FDS = "VDI_SECRETS_FD", "VDI_SOCKET_FDS"
"""Variables that name inherited descriptors: a pipe with JSON, and bound sockets."""
ACCEPTS_FILE = "selkies.accepts"
"""In XDG_RUNTIME_DIR, from when Selkies accepts connections."""
_PR_SET_DUMPABLE = 4
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def forbid_inspection() -> None:
    """Refuse ptrace and core dumps; /proc/PID/{environ,mem,fd} belong to root from now on. Raises
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE, 0) failed")


def write_secrets(secrets: dict[str, str]) -> int:
    """The reading end of a pipe that holds these variables."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        json.dump(secrets, pipe)
    return reader


def read_secrets() -> dict[str, str]:
    """The variables in the inherited pipe, once; none without a pipe."""
    number = os.environ.pop(SECRETS_FD, "")
    if not number:
        return {}
    with os.fdopen(int(number)) as pipe:
        secrets: dict[str, str] = json.load(pipe)
    return secrets


def bind_port(addresses: str, port: int) -> list[socket.socket]:
    """Sockets bound to the port, one for each address (with commas between), as Selkies binds them.
    Raises OSError.

    An address that this machine does not have is left out while another is bound: not every pod has
    IPv6.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for host in addresses.split(","):
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host.strip(), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                try:
                    bound.append(_bind(socket.socket(family, kind, protocol), address))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
        if missing and not bound:
            raise missing
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def _bind(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def inherited_sockets() -> list[socket.socket]:
    """The sockets that the launcher has bound for this process; children of this process do not get
    them.
    """
    numbers = [int(number) for number in os.environ.pop(SOCKET_FDS, "").split(",") if number]
    for number in numbers:
        os.set_inheritable(number, False)
    return [socket.socket(fileno=number) for number in numbers]


def sha256_of(token: str) -> str:
    """The digest by which a token is known that is itself nowhere in the container."""
    return sha256(token.encode(errors="replace")).hexdigest()


def is_bearer_of(authorization: str, digest: str) -> bool:
    """Whether a header `Authorization` has the token with this digest."""
    scheme, _, token = authorization.partition(" ")
    return scheme == "Bearer" and hmac.compare_digest(
        sha256_of(token.strip()).encode(), digest.encode()
    )
