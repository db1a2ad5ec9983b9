"""Failure of a command: a message and an exit code. Raised everywhere in this package, printed by
`main`.
"""

from vdi.findings import ExitCode

FINDINGS = ExitCode.FINDINGS
USAGE = ExitCode.USAGE
COULD_NOT_LOOK = ExitCode.COULD_NOT_LOOK
# After Ctrl-C, as shells report a process that SIGINT has ended.
INTERRUPTED = 130


class CliError(Exception):
    """Raised when a command ends without what it was asked for; the message is whole sentences for
    the person.
    """

    def __init__(self, message: str, exit_code: int = FINDINGS) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
