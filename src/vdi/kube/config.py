"""Where the cluster is and who we are to it: kubeconfig, or the service account of the pod we run in."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One way to one cluster. Secrets are kept out of its repr."""

    server: str
    """URL, such as `https://10.0.0.1:6443`."""
    namespace: str = "default"


def load_config(kubeconfig: Path | None = None, context: str | None = None) -> ClusterConfig:
    """Find the cluster: the file given, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises ConfigError, which says what was looked at and what is missing.
    """
    raise NotImplementedError
