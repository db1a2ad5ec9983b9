"""How a command fails: whole sentences and an exit code. Raised everywhere in this room, printed by `main`."""

FINDINGS = 1
USAGE = 2
COULD_NOT_LOOK = 3


class CommandFailedError(Exception):
    """Raised when a command ends without what it was asked for; the message is whole sentences for the person."""

    def __init__(self, message: str, exit_code: int = FINDINGS) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
