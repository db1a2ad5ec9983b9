"""Finds the cluster: a kubeconfig, or the service account of the pod that this process runs in."""

import os
from pathlib import Path

from vdi.kube.config import ClusterConfig
from vdi.kube.errors import ConfigError
from vdi.kube.http import url_host

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where every pod finds its token, CA and namespace (kubernetes.io: Accessing the API from a Pod)."""


def load_config(kubeconfig: Path | None = None, context: str | None = None) -> ClusterConfig:
    """Find the cluster: the file given, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises ConfigError, which says what was looked at and what is missing. A context asked for is never looked for in
    the service account.
    """
    if kubeconfig is not None:
        files = [kubeconfig]
    else:
        files = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if not files:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return _in_cluster()
        standard = Path.home() / ".kube" / "config"
        if not standard.exists():
            raise ConfigError(
                f"no cluster: $KUBECONFIG is not set, this is not a pod, and {standard} does not exist; select one "
                "with --kubeconfig or $KUBECONFIG"
            )
        files = [standard]
    from vdi.kube.kubeconfig import read_kubeconfig  # only here: a pod needs no YAML

    return read_kubeconfig(files, context)


def _in_cluster() -> ClusterConfig:
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    folder = SERVICE_ACCOUNT
    try:
        ca = (folder / "ca.crt").read_bytes()
        namespace = (folder / "namespace").read_text().strip()
        (folder / "token").read_bytes()
    except OSError as error:
        raise ConfigError(
            f"in a pod, but its service account cannot be read: {error} (automountServiceAccountToken: false?)"
        ) from error
    return ClusterConfig(
        server=f"https://{url_host(host)}:{port}",
        namespace=namespace,
        source="the pod's service account",
        ca=ca,
        token_file=folder / "token",
    )
