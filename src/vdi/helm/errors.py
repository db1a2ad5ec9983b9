"""What can go wrong around Helm.

HelmError
+-- HelmUnavailable    no usable helm on this machine
+-- HelmFailed         helm ran and did not do what was asked (`failure` says why, in words)
+-- HelmInterrupted    somebody pressed Ctrl-C; helm has ended
"""

# ruff: noqa: N818 - they read so where they are caught

from vdi.helm.failures import Failure


class HelmError(Exception):
    """Raised when Helm could not be used, or failed. Catch this one to catch them all."""


class HelmUnavailable(HelmError):
    """Raised when there is no helm, or one of a version that is not supported."""


class HelmFailed(HelmError):
    """Raised when helm ended with an error."""

    def __init__(self, what: str, failure: Failure) -> None:
        self.what = what
        self.failure = failure
        super().__init__(f"{what}: {failure.sentence}" + (f" {failure.remedy}" if failure.remedy else ""))


class HelmInterrupted(HelmError):
    """Raised when helm was asked to stop, and has stopped."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: interrupted")
