"""`vdi session open --direct`: a desktop past Traefik and the gateway, through the API server.

`kubectl port-forward` carries it; docs/design/edge.md says why, and what the token is.
"""

import asyncio
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.options import KubeConnection
from vdi.cli.session.backend import Opening, Target
from vdi.cli.session.kube_backend import KubeBackend, KubeTarget, RunningDesktop
from vdi.cli.session.operations import running_session
from vdi.http_client import HTTP_ERRORS, LOOPBACK, HttpClient, Response, open_client
from vdi.session.children import PORT_NAME, USERNAME
from vdi.session.credentials import direct_table, direct_token

_ANSWER_SECONDS = 10.0
_FORWARDING = re.compile(rf"Forwarding from {re.escape(LOOPBACK)}:(\d+) ")


class Forwarding:
    """A running `kubectl port-forward`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._last = "it printed nothing"

    def wait_for_port(self) -> int:
        """The local port. Raises CliError when kubectl ends instead."""
        for line in self._lines():
            if match := _FORWARDING.search(line):
                return int(match[1])
        raise CliError(
            f"`kubectl port-forward` cannot reach the desktop: {self._last}", COULD_NOT_LOOK
        )

    def wait_for_end(self) -> None:
        """Wait until the connection ends by itself, then raise CliError."""
        for _ in self._lines():  # a pipe that no one reads would stop kubectl
            pass
        raise CliError(f"the connection to the desktop has ended: {self._last}")

    def _lines(self) -> Iterator[str]:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in self._process.stdout:
            if not line.startswith("Handling connection"):
                self._last = line.strip()
            yield line


@contextmanager
def forward(connection: KubeConnection, pod: str) -> Iterator[Forwarding]:
    """Forward a free port of this machine's loopback address to the desktop's. Raises CliError
    without kubectl.
    """
    if (kubectl := shutil.which("kubectl")) is None:
        raise CliError(
            "--direct needs kubectl, and there is none on the PATH: install it"
            " (https://kubernetes.io/docs/tasks/tools/), or open the desktop without --direct",
            COULD_NOT_LOOK,
        )
    command = [kubectl, "--namespace", connection.namespace, *connection.cluster_words]
    command += ["port-forward", "--address", LOOPBACK, f"pod/{pod}", f":{PORT_NAME}"]
    # SIGTERM would end this process at once and leave kubectl behind, with the port open. As a
    # KeyboardInterrupt it passes through `finally`.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Forwarding(process)
        finally:
            process.terminate()
            signal.signal(signal.SIGTERM, before)


def find_desktop(target: Target, name: str) -> tuple[KubeConnection, RunningDesktop, str]:
    """A running desktop and what opens it: the user's password, or Selkies' master token behind a
    gateway.

    Raises CliError, also for a gateway: it forwards no ports.
    """
    if not isinstance(target, KubeTarget):
        raise CliError(
            "--direct goes through the API server, and this command goes to a gateway:"
            " name a cluster with --kubeconfig or --context",
            USAGE,
        )

    async def find(backend: KubeBackend) -> tuple[RunningDesktop, str]:
        session = await running_session(backend, name)
        desktop = await backend.running_desktop(session)
        return desktop, "" if desktop.serves_web else await backend.password(session)

    return target.connection, *target.run(find)


def open_locally(desktop: RunningDesktop, secret: str, port: int) -> Opening:
    """The address for a browser of this machine, through the forwarded port. Raises CliError."""
    url = f"{desktop.scheme}://{LOOPBACK}:{port}/"
    if desktop.serves_web:
        return Opening(url)
    try:
        return asyncio.run(_prepare(desktop, secret, url))
    except HTTP_ERRORS as error:
        raise CliError(
            f"the desktop does not respond: {type(error).__name__}: {error}", COULD_NOT_LOOK
        ) from error


async def _prepare(desktop: RunningDesktop, secret: str, url: str) -> Opening:
    async with open_client(url, seconds=_ANSWER_SECONDS) as http:
        status = _accepted(await http.request("GET", f"{url}api/status"))
        if status.json(dict[str, Any]).get("current_mode") == "webrtc":
            raise CliError(
                "this desktop streams over WebRTC, whose picture cannot pass a forwarded port"
            )
        if not desktop.takes_tokens:
            return Opening(url, USERNAME, secret)
        token = direct_token(secret)
        await _have_token_known(http, url, master=secret, token=token)
        return Opening(f"{url}#token={token}")


async def _have_token_known(http: HttpClient, url: str, *, master: str, token: str) -> None:
    # The gateway gives the token to each desktop. Where it could not, it is given here, but only
    # while no one is connected: a new token table ends the connections whose tokens it lacks.
    if (await _sessions(http, url, token)).status == HTTPStatus.OK:
        return
    response = await _sessions(http, url, master)
    if response.status != HTTPStatus.OK:
        raise CliError(f"the desktop rejects the token of its Secret with status {response.status}")
    if response.json(dict[str, Any]).get("sessions"):
        raise CliError(
            "the desktop does not know the token for direct access, and a new token table would"
            " disconnect the users who are connected now. A gateway of this version adds it when it"
            " starts"
        )
    headers = {"Authorization": f"Bearer {master}"}
    _accepted(
        await http.request("POST", f"{url}api/tokens", json=direct_table(master), headers=headers)
    )


async def _sessions(http: HttpClient, url: str, token: str) -> Response:
    return await http.request(
        "GET", f"{url}api/sessions", headers={"Authorization": f"Bearer {token}"}
    )


def _accepted(response: Response) -> Response:
    if response.status != HTTPStatus.OK:
        raise CliError(f"the desktop responds with status {response.status}", COULD_NOT_LOOK)
    return response
