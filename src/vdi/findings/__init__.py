"""Findings of every command that runs checks: one model, one renderer, and one set of exit codes,
which is here.

The help of the command line needs the exit codes and nothing else, so this module imports nothing.
"""


class ExitCode:
    """Exit codes of a command that has run checks. FINDINGS is also that of a command which
    failed.
    """

    OK = 0
    FINDINGS = 1
    USAGE = 2
    COULD_NOT_LOOK = 3
