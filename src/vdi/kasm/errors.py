"""How installing, upgrading, backing up and removing a Kasm can fail. Messages are whole sentences."""


class KasmError(Exception):
    """Raised when something was not done. Catch this one to catch them all."""


class KasmRefusedError(KasmError):
    """Raised before anything was changed; `problems` say why, each with what to do."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class KasmFailedError(KasmError):
    """Raised when it was begun and not ended well; the message says in which state it was left."""

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        super().__init__(message)
