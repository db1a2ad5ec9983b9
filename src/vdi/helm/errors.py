"""Errors around Helm, and helm's own messages as failures with a code.

HelmError
+-- HelmUnavailableError    no usable helm on this machine
+-- HelmFailedError         helm ran and did not do what was asked (`failure` has code and sentence)
+-- HelmInterruptedError    somebody pressed Ctrl-C; helm has ended
"""

import re
from typing import NamedTuple


class Failure(NamedTuple):
    """`code` is for programs and tests, `sentence` and `remedy` for people."""

    code: str
    sentence: str
    remedy: str = ""


class HelmError(Exception):
    """Raised when Helm could not be used, or failed. Catch this one to catch them all."""


class HelmUnavailableError(HelmError):
    """Raised when there is no helm, or one of a version that is not supported."""


class HelmFailedError(HelmError):
    """Raised when helm ended with an error."""

    def __init__(self, what: str, failure: Failure) -> None:
        self.what = what
        self.failure = failure
        super().__init__(
            f"{what}: {failure.sentence}" + (f" {failure.remedy}" if failure.remedy else "")
        )


class HelmInterruptedError(HelmError):
    """Raised when helm was asked to stop, and has stopped."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: interrupted")


# Pattern, code, sentence ({name}: a named group), remedy. The first match answers.
_RULES = (
    (
        r"another operation \(install/upgrade/rollback\) is in progress",
        "Busy",
        "Helm reports that another operation on this release is in progress.",
        (
            "If no one is working on it, one was killed: go back to the last good revision with"
            " helm rollback."
        ),
    ),
    (
        (
            r"(?P<kind>\S+) \"(?P<what>[^\"]+)\" in namespace \"[^\"]*\" exists and cannot be"
            r" imported into the current"
        ),
        "NotOurs",
        "{kind} {what} already exists and belongs to no release, or to another one.",
        "Delete it if it is a leftover, or install under that release's name.",
    ),
    (
        r"no matches for kind \"(?P<kind>[^\"]+)\" in version \"(?P<api>[^\"]+)\"",
        "UnknownKind",
        "The cluster does not know {kind} ({api}), which these values create.",
        "Install the software that provides this kind, or turn off in the values what needs it.",
    ),
    (
        r"Kubernetes cluster unreachable: (?P<what>[^\n]*)",
        *("Unreachable", "The cluster does not respond to helm: {what}", ""),
    ),
    (r"context cancell?ed|has been cancell?ed", "Interrupted", "It was interrupted.", ""),
    (
        r"deadline exceeded|would exceed context deadline|timed out waiting|resource not ready",
        *("NotReadyInTime", "Not everything was ready in time.", ""),
    ),
)
# A line of helm's log, which is no reason: its libraries log `context canceled` where they stop
# listening.
_NOISE = re.compile(r"^(?:level=|time=|WARNING:|[EFIW]\d{4} )")


def explain_failure(stderr: str) -> Failure:
    """The failure that helm has printed; helm's own sentence where no rule matches."""
    said = "\n".join(line for line in stderr.splitlines() if not _NOISE.match(line))
    for pattern, code, sentence, remedy in _RULES:
        if match := re.search(pattern, said):
            return Failure(code, sentence.format(**match.groupdict()), remedy)
    return Failure("Unknown", _last_error(said))


def _last_error(said: str) -> str:
    """Helm's last error with the lines below it: Helm 3 counts errors in one line and names them in
    the next.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        return "helm failed without a message."
    begins = [number for number, line in enumerate(lines) if line.startswith("Error:")]
    error_lines = lines[begins[-1] :] if begins else lines[-1:]
    return " ".join(error_lines).removeprefix("Error:").strip()[:1000]
