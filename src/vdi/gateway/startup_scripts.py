"""What became of the start-up scripts of a running desktop, for its owner: the agent's report, checked.

What a script has written is the word of whoever wrote the script, and of the desktop's user. It is bounded here too,
and has no character that moves others.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import Phase, Role, VDISession
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent, find_session
from vdi.gateway.users import User
from vdi.http_client import BadResponseError

ANSWER_SECONDS = 2.0
"""The desktop's page waits for it."""
MAX_BYTES = 64 * 1024
MAX_SCRIPTS = 2
MAX_LINES, MAX_CHARACTERS = 40, 4096
_TERMINAL_COMMAND = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class StartupScript(msgspec.Struct, rename="camel", omit_defaults=True):
    """One script and its result."""

    source: Annotated[
        Literal["template", "user"],
        doc("Whose script: `startupScript` of the template, or `~/.config/vdi/startup.sh` of the user."),
    ]
    state: Annotated[
        Literal["Running", "Ended", "NotStarted"],
        doc("NotStarted: it could not be started; `output` has the reason."),
    ]
    exit_code: Annotated[int | None, doc("Exit code of a script that has ended; 0: success.")] = None
    output: Annotated[str, doc(f"Its last lines: at most {MAX_LINES}, and {MAX_CHARACTERS} characters.")] = ""


class StartupScriptList(msgspec.Struct):
    """Scripts, in the order in which they started."""

    items: Annotated[tuple[StartupScript, ...], doc("Those of the current start of the desktop.")]


class _Report(msgspec.Struct):
    scripts: tuple[StartupScript, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupScripts:
    """Asks the desktops' agents."""

    context: GatewayContext
    agent: DesktopAgent

    async def read(self, user: User, name: str) -> tuple[StartupScript, ...]:
        """Those of the user's own desktop since its start. Raises ActionDenied."""
        session, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", f"Only the owner of desktop {name!r} can read what its scripts write.")
        if not is_readable(session, role):
            raise ActionDenied(
                "Conflict", f"The desktop {name!r} is not running, so it has no results of start-up scripts."
            )
        answer = await self.agent.ask(session, "GET", "/startup-scripts", seconds=ANSWER_SECONDS, max_bytes=MAX_BYTES)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied("Conflict", f"The image of desktop {name!r} does not report its start-up scripts.")
        if answer.status != HTTPStatus.OK:
            raise ActionDenied("Unavailable", f"The agent in {name!r} has no report now ({answer.status}).")
        try:
            scripts = answer.json(_Report).scripts
        except BadResponseError as error:
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a valid report.") from error
        return tuple(
            msgspec.structs.replace(script, output=last_lines(script.output)) for script in scripts[:MAX_SCRIPTS]
        )


def is_readable(session: VDISession, role: Role | None) -> bool:
    """Whether somebody with this role in the session gets the report now."""
    return (
        role is Role.OWNER
        and session.status.phase == Phase.RUNNING
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
    )


def last_lines(output: str) -> str:
    """The end of a script's output as plain text: no colours, and no characters that change the order of others."""
    text = _TERMINAL_COMMAND.sub("", output[-2 * MAX_CHARACTERS :]).replace("\r\n", "\n").replace("\r", "\n")
    plain = "".join(character for character in text if character in "\n\t" or character.isprintable())
    return "\n".join(plain[-MAX_CHARACTERS:].rstrip().split("\n")[-MAX_LINES:])
