"""Why nothing was done."""


class RefusedError(Exception):
    """Raised when what was asked cannot or must not be done; the message is whole sentences, with what is allowed."""


class NoChartError(RefusedError):
    """Raised when there is no chart where one was looked for."""
