"""Where a release is. Pure."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """Which cluster and which namespace. Without kubeconfig and context Helm looks where we look."""

    namespace: str
    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def arguments(self) -> list[str]:
        """As Helm takes them."""
        words = ["--namespace", self.namespace]
        words += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return words + (["--kube-context", self.context] if self.context else [])

    @property
    def kubectl_arguments(self) -> list[str]:
        """As kubectl takes them, and our own commands."""
        words = ["--namespace", self.namespace]
        words += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return words + (["--context", self.context] if self.context else [])

    @property
    def options(self) -> str:
        """What a suggested command of kubectl, or of ours, has to say so that it is about the same namespace."""
        return shlex.join(self.kubectl_arguments)

    @property
    def helm_options(self) -> str:
        """The same for one of helm."""
        return shlex.join(self.arguments)
