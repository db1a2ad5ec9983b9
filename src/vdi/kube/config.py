"""Address of the cluster and credentials for it, from a kubeconfig or from the service account of
the pod.

Programs call `load_config` and give the result to a `Client`, which keeps the bearer token fresh
with `Credentials`.
"""

import asyncio
import base64
import binascii
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vdi.kube.clock import Clock
from vdi.kube.errors import ConfigError
from vdi.kube.http import url_host

N = TypeVar("N")
# Token, CA and namespace of every pod (kubernetes.io: Accessing the API from a Pod).
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Seconds; the kubelet replaces a token when 80 % of its life is over, so the old one is good for
# minutes more.
REREAD_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Address of one cluster with credentials. Its repr leaves out secrets."""

    # URL, such as `https://10.0.0.1:6443`.
    server: str
    namespace: str = "default"
    # The place that this was read from, for messages.
    source: str = ""
    # PEM; None means the machine's own authorities.
    ca: bytes | None = field(default=None, repr=False)
    # Do not check the server's certificate (`insecure-skip-tls-verify`).
    insecure: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None
    token: str | None = field(default=None, repr=False)
    # Read again every minute, and when the server says 401: the kubelet replaces it.
    token_file: Path | None = None
    # Runs the exec plugin again for a fresh token; called when the server says 401.
    token_plugin: Callable[[], str] | None = field(default=None, repr=False)
    client_cert: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context, None for plain HTTP. Raises ConfigError when a certificate or key cannot
        be used.
        """
        if not self.server.startswith("https://"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            # From Python 3.13 on the default refuses authorities without key identifiers, which
            # many clusters have.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.client_cert is not None and self.client_key is not None:
                _load_pair(context, self.client_cert, self.client_key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{self.source or self.server}: certificate or key cannot be used: {error}"
            ) from error
        return context


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    # Python's ssl takes client certificates from files only: this one is private, and gone at the
    # end.
    import tempfile  # only here: a pod has a token, and `tempfile` imports archives and compression

    with tempfile.TemporaryDirectory(prefix="vdi-tls-") as folder:
        pair = Path(folder, "pair.pem")
        pair.touch(mode=0o600)
        pair.write_bytes(cert.rstrip() + b"\n" + key)
        context.load_cert_chain(pair)


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _User(msgspec.Struct, rename="kebab"):
    token: str | None = None
    token_file: str | None = msgspec.field(default=None, name="tokenFile")
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    username: str | None = None
    exec: dict[str, Any] | None = None
    auth_provider: dict[str, Any] | None = None


class _Context(msgspec.Struct):
    cluster: str
    user: str = ""
    namespace: str | None = None


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _File(msgspec.Struct, rename="kebab"):
    current_context: str | None = None
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def read_kubeconfig(files: Sequence[Path], context: str | None) -> ClusterConfig:
    """The cluster of `context` (else the current one) in these files. Raises ConfigError."""
    source = ", ".join(map(str, files))
    contexts: dict[str, _Context] = {}
    clusters: dict[str, _Cluster] = {}
    users: dict[str, _User] = {}
    current = context
    for path in files:
        file = _parse(path)
        current = current or file.current_context
        for one in file.contexts or ():
            contexts.setdefault(one.name, one.context)
        for two in file.clusters or ():
            clusters.setdefault(two.name, two.cluster)
        for three in file.users or ():
            users.setdefault(three.name, three.user or _User())
    if not current:
        raise ConfigError(
            f"{source}: current-context is not set; choose one of: {', '.join(sorted(contexts))}"
        )
    chosen = _find(contexts, current, "context", source)
    cluster = _find(clusters, chosen.cluster, "cluster", source)
    if chosen.user:
        user = _find(users, chosen.user, "user", source)
    else:
        user = _User()
    return _assemble(f"{source}, context {current!r}", chosen.namespace, cluster, user)


def _find(table: dict[str, N], name: str, what: str, source: str) -> N:
    if name not in table:
        raise ConfigError(
            f"{source}: no {what} {name!r}; available: {', '.join(sorted(table)) or 'none'}"
        )
    return table[name]


def _parse(path: Path) -> _File:
    """One file, with its relative paths made absolute."""
    # PyYAML is 2 MiB that an operator in a pod does not need: it has no kubeconfig.
    import yaml

    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"kubeconfig {path}: {error.strerror or error}") from error
    try:
        file = msgspec.convert(yaml.safe_load(text) or {}, _File)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"kubeconfig {path} cannot be read: {error}") from error
    folder = path.absolute().parent
    for named in file.clusters or ():
        part = named.cluster
        part.certificate_authority = _absolute(folder, part.certificate_authority)
    for entry in file.users or ():
        if entry.user is not None:
            user = entry.user
            user.client_certificate = _absolute(folder, user.client_certificate)
            user.client_key = _absolute(folder, user.client_key)
            user.token_file = _absolute(folder, user.token_file)
    return file


def _absolute(folder: Path, name: str | None) -> str | None:
    return str(folder / name) if name else None


def _assemble(source: str, namespace: str | None, cluster: _Cluster, user: _User) -> ClusterConfig:
    if not cluster.server.startswith(("https://", "http://")):
        raise ConfigError(
            f"{source}: server is {cluster.server!r}, must be an http:// or https:// URL"
        )
    if user.auth_provider is not None:
        name = user.auth_provider.get("name")
        raise ConfigError(
            f"{source}: auth-provider {name!r} was removed from Kubernetes; use an exec plugin"
            " instead"
        )
    if user.username:
        raise ConfigError(
            f"{source}: user name and password were removed from Kubernetes; use a token or"
            " certificate"
        )
    cert = _bytes(
        source, "client-certificate", user.client_certificate_data, user.client_certificate
    )
    key = _bytes(source, "client-key", user.client_key_data, user.client_key)
    token, plugin = user.token, None
    if user.exec is not None and not (token or user.token_file):
        response = _run_plugin(source, user.exec, cluster)
        token = response.get("token")
        if "clientCertificateData" in response:
            cert = response["clientCertificateData"].encode()
            key = response.get("clientKeyData", "").encode()
        plugin = _token_plugin(source, user.exec, cluster) if token else None
    if (cert is None) != (key is None):
        raise ConfigError(
            f"{source}: client-certificate and client-key must be set together, but only one of"
            " them is"
        )
    return ClusterConfig(
        server=cluster.server.rstrip("/"),
        namespace=namespace or "default",
        source=source,
        ca=_bytes(
            source,
            "certificate-authority",
            cluster.certificate_authority_data,
            cluster.certificate_authority,
        ),
        insecure=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name,
        proxy_url=cluster.proxy_url,
        token=token,
        token_file=Path(user.token_file) if user.token_file else None,
        token_plugin=plugin,
        client_cert=cert,
        client_key=key,
    )


def _bytes(source: str, what: str, data: str | None, file: str | None) -> bytes | None:
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ConfigError(f"{source}: {what}-data is not base64: {error}") from error
    if file:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{source}: {what} {file}: {error.strerror or error}") from error
    return None


def _token_plugin(source: str, spec: dict[str, Any], cluster: _Cluster) -> Callable[[], str]:
    def fresh() -> str:
        return str(_run_plugin(source, spec, cluster).get("token") or "")

    return fresh


def _run_plugin(source: str, spec: dict[str, Any], cluster: _Cluster) -> dict[str, str]:
    """Run an exec credential plugin through the official client, which knows that protocol."""
    command = spec.get("command")
    try:
        from kubernetes.config.config_exception import ConfigException
        from kubernetes.config.exec_provider import ExecProvider
        from kubernetes.config.kube_config import ConfigNode
    except ImportError as error:
        raise ConfigError(
            f"{source}: credentials come from the plugin {command!r}; to run it, install the extra:"
            " pip install 'vdi-kubernetes[exec-auth]'"
        ) from error
    about = {
        "server": cluster.server,
        "certificate-authority-data": cluster.certificate_authority_data,
    }
    try:
        provider: Any = ExecProvider(ConfigNode("exec", spec), None, ConfigNode("cluster", about))  # type: ignore[no-untyped-call]
        response: dict[str, str] = provider.run()
    except (ConfigException, OSError) as error:
        raise ConfigError(f"{source}: plugin {command!r}: {error}") from error
    if not response.get("token") and not response.get("clientCertificateData"):
        raise ConfigError(
            f"{source}: plugin {command!r} returned neither token nor clientCertificateData"
        )
    return response


def load_config(kubeconfig: Path | None = None, context: str | None = None) -> ClusterConfig:
    """Find the cluster: the file given, else $KUBECONFIG, else the pod's service account, else
    ~/.kube/config.

    Raises ConfigError, which says what was looked at and what is missing. A context asked for is
    never looked for in the service account.
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
                f"no cluster: $KUBECONFIG is not set, this is not a pod, and {standard} does not"
                " exist; select one with --kubeconfig or $KUBECONFIG"
            )
        files = [standard]

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
            f"in a pod, but its service account cannot be read: {error}"
            " (automountServiceAccountToken: false?)"
        ) from error
    return ClusterConfig(
        server=f"https://{url_host(host)}:{port}",
        namespace=namespace,
        source="the pod's service account",
        ca=ca,
        token_file=folder / "token",
    )


class Credentials:
    """The Authorization header of a Client."""

    def __init__(self, config: ClusterConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._token = config.token
        self._read_at = float("-inf")

    def headers(self) -> dict[str, str]:
        """The header, in a new dict; empty where a certificate is used. Raises ConfigError when the
        file is gone.
        """
        if (
            self._config.token_file is not None
            and self._clock.monotonic() - self._read_at >= REREAD_AFTER
        ):
            self._read()
        if self._token:
            return {"Authorization": f"Bearer {self._token}"}
        return {}

    async def renew(self) -> bool:
        """Look for a new token after a 401; False without one: trying again would be in vain."""
        before = self._token
        if self._config.token_file is not None:
            self._read()
        elif self._config.token_plugin is not None:
            self._token = await asyncio.to_thread(self._config.token_plugin)
        return self._token != before

    def _read(self) -> None:
        file = self._config.token_file
        assert file is not None  # noqa: S101 - both callers have looked
        try:
            self._token = file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"token file {file}: {error.strerror or error}") from error
        self._read_at = self._clock.monotonic()
