"""Exit codes. Apart from `model`, so that the help of the command line loads nothing else."""


class ExitCode:
    """How a command ends that has run checks."""

    OK = 0
    # Or the command failed.
    FINDINGS = 1

    USAGE = 2
    COULD_NOT_LOOK = 3
