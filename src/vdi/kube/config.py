"""Where the cluster is and who we are to it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vdi.kube.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One way to one cluster. Secrets are kept out of its repr."""

    server: str
    """URL, such as `https://10.0.0.1:6443`."""
    namespace: str = "default"
    source: str = ""
    """Where this was read from, in words, for messages."""
    ca: bytes | None = field(default=None, repr=False)
    """PEM; None means the machine's own authorities."""
    insecure: bool = False
    """Do not check the server's certificate (`insecure-skip-tls-verify`)."""
    tls_server_name: str | None = None
    proxy_url: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    """Read again every minute, and when the server says 401: the kubelet replaces it."""
    token_plugin: Callable[[], str] | None = field(default=None, repr=False)
    """Runs the exec plugin again for a fresh token; called when the server says 401."""
    client_cert: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)

    def ssl_context(self) -> ssl.SSLContext | None:
        """What TLS needs, or None for plain HTTP. Raises ConfigError when a certificate or key cannot be used."""
        if not self.server.startswith("https://"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            # From Python 3.13 on the default refuses authorities without key identifiers, which many clusters have.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.client_cert is not None and self.client_key is not None:
                _load_pair(context, self.client_cert, self.client_key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"{self.source or self.server}: certificate or key cannot be used: {error}") from error
        return context


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Python's ssl takes client certificates from files only: private ones, gone when this returns."""
    import tempfile  # only here: a pod has a token, and this brings archives and compression with it

    with tempfile.TemporaryDirectory(prefix="vdi-tls-") as folder:
        pair = Path(folder, "pair.pem")
        pair.touch(mode=0o600)
        pair.write_bytes(cert.rstrip() + b"\n" + key)
        context.load_cert_chain(pair)
