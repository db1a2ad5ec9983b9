"""What Selkies and vdi-agent inherit, and no other program: secrets, ports, files without a
name.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from handed_files import create_handed_files
from last_input import create_input_memory
from process_secrets import SECRETS_FD, SOCKET_FDS, bind_port, write_secrets

from launcher.log import refuse

_ANYWHERE = "0.0.0.0,::"


class Handover:
    """Keeps what the two inherit, also for their next start.

    Args:
        hidden: variables that reach them through a pipe, as their environment could be read.
    """

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self._hidden = dict(hidden)
        self.sockets: dict[str, list[socket.socket]] = {}
        self._files = create_handed_files(create_input_memory())

    def hold_ports(self, stream: Mapping[str, str]) -> None:
        """Take the ports of Selkies and vdi-agent, before a program of the user could. Refuses what
        can't be bound.

        Of IPv4 and IPv6: what holds one leaves the other to anybody. Both listen at once: on a port
        that is only bound, a program with SO_REUSEADDR could listen first. And a readiness probe is
        answered when Selkies has loaded, instead of refused now and repeated a second later.
        """
        addresses = stream.get("SELKIES_ADDR") or _ANYWHERE
        self._hold("selkies", addresses, stream.get("SELKIES_PORT") or "8080")
        if stream.get("VDI_AGENT_TOKEN_SHA256"):
            self._hold("vdi-agent", _ANYWHERE, stream.get("VDI_AGENT_PORT") or "8082")

    def _hold(self, name: str, addresses: str, port: str) -> None:
        try:
            self.sockets[name] = bind_port(addresses, int(port))
            for listener in self.sockets[name]:
                listener.listen()
        except (OSError, ValueError) as error:
            refuse(f"{name} can't listen on port {port} of {addresses}: {error}")

    @contextmanager
    def to(self, name: str) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        """Variables and descriptors for a start of this program; for any other nothing."""
        if name not in self.sockets:
            yield {}, ()
            return
        ports = [listener.fileno() for listener in self.sockets[name]]
        files = self._files[name]
        pipe = write_secrets(self._hidden)
        try:
            variables = {variable: str(file) for variable, file in files.items()}
            variables |= {SECRETS_FD: str(pipe), SOCKET_FDS: ",".join(map(str, ports))}
            yield variables, (pipe, *ports, *files.values())
        finally:
            os.close(pipe)
