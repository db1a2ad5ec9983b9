"""Keeps a node advertising GPUs that it does not have: `python fake_gpus.py HOST:PORT NODE COUNT CA
CERT KEY`.

Runs under the supervisor, as the node itself. A kubelet that starts again sets extended resources
it does not know to zero, so the number is looked at again and again. Standard library only, like
the supervisor.
"""

import http.client
import json
import ssl
import sys
import time
from typing import Any

RESOURCE = "nvidia.com/gpu"
_LOOK_EVERY = 2.0
_LARGEST_ANSWER = 8 * 2**20


def ask(
    connection: http.client.HTTPSConnection, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    """One request; raises OSError with the API server's words when it refuses."""
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read(_LARGEST_ANSWER)
    if response.status != http.client.OK:
        raise OSError(
            f"{method} {path}: status {response.status} {content[:300].decode(errors='replace')}"
        )
    answer: dict[str, Any] = json.loads(content)
    return answer


def advertise(connection: http.client.HTTPSConnection, node: str, count: str) -> bool:
    """Set capacity and allocatable when they are not `count`; says whether it had to."""
    status = ask(connection, "GET", f"/api/v1/nodes/{node}")["status"]
    if status["capacity"].get(RESOURCE) == count and status["allocatable"].get(RESOURCE) == count:
        return False
    numbers = {RESOURCE: count}
    body = {"status": {"capacity": numbers, "allocatable": numbers}}
    ask(connection, "PATCH", f"/api/v1/nodes/{node}/status", body)
    return True


def main(address: str, node: str, count: str, ca: str, certificate: str, key: str) -> None:
    """Look every two seconds, for ever."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    while True:
        connection = http.client.HTTPSConnection(host, int(port), timeout=5, context=context)
        try:
            while True:
                if advertise(connection, node, count):
                    print(f"{node} now advertises {count} {RESOURCE} (simulated)", flush=True)  # noqa: T201 - its log
                time.sleep(_LOOK_EVERY)
        except (OSError, http.client.HTTPException) as error:
            print(error, flush=True)  # noqa: T201 - its log
        finally:
            connection.close()
        time.sleep(_LOOK_EVERY)


if __name__ == "__main__":
    main(*sys.argv[1:])
