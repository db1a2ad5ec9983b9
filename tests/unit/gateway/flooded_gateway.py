"""A program for `test_attack_memory`: the portal on a port of this machine, with alice logged in.

It writes its port and her secret as JSON, then serves until it is ended.
"""

import json
import resource
import sys

import uvloop

from unit.gateway.portal_stage import ALICE, PortalStage
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.web.credentials import LOGIN_COOKIE


async def main() -> None:
    """Serve."""
    stage = PortalStage()
    browser = stage.browser(ALICE).client
    await browser.get("/")
    server = _Server(_uvicorn_config(stage.public))
    with listen(("127.0.0.1", 0), "VDI_PUBLIC_ADDR") as where:
        sys.stdout.write(json.dumps([where.getsockname()[1], browser.cookies[LOGIN_COOKIE]]) + "\n")
        sys.stdout.flush()
        await server.serve([where])


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(main())
