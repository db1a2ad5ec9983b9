"""Certificates and kubeconfigs of every component and of the administrator.

`ca` is Kubernetes' own; `etcd-ca` admits only the API server to the database; `web-ca` signs the
certificate that browsers see and nothing beyond its domain, so trusting it is harmless. Existing
files are kept.
"""

import base64
import datetime
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vdi.devcluster.layout import ClusterSettings, Layout, give_to_invoker, write_private
from vdi.devcluster.networks import CONTROL_PLANE_SERVICES

# A development cluster must not stop one morning: no renewal, ten years.
_YEARS = datetime.timedelta(days=3650)
# Names below `localhost` reach this machine without any DNS: browsers and resolvers agree on that.
WEB_DOMAIN = "vdi.localhost"


@dataclass(frozen=True)
class Authority:
    """A certificate authority and the folder of what it signs."""

    folder: Path
    name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def issue(
        self,
        file_name: str,
        common_name: str,
        *,
        organisation: str = "",
        names: Sequence[str] = (),
        server: bool = False,
    ) -> tuple[Path, Path]:
        """A certificate and its key for `common_name`; `names` are DNS names and addresses.
        Existing ones are kept.
        """
        certificate_file = self.folder / f"{file_name}.crt"
        key_file = self.folder / f"{file_name}.key"
        if certificate_file.exists() and key_file.exists():
            return certificate_file, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + [ExtendedKeyUsageOID.SERVER_AUTH] * server
        builder = (
            _builder(_name(common_name, organisation), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False
            )
        write_key(key_file, key)
        certificate = builder.sign(self.key, hashes.SHA256())
        write_private(
            certificate_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
        )
        return certificate_file, key_file


def authority(folder: Path, name: str, common_name: str, *, only_domain: str = "") -> Authority:
    """Load the authority `name` from `folder`, or make it. `only_domain` limits what it can vouch
    for.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate_file.exists() and key_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we wrote it
        return Authority(
            folder, name, x509.load_pem_x509_certificate(certificate_file.read_bytes()), key
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name, "")
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if only_domain:
        limits = x509.NameConstraints(
            permitted_subtrees=[x509.DNSName(only_domain)], excluded_subtrees=None
        )
        builder = builder.add_extension(limits, critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    write_key(key_file, key)
    write_private(
        certificate_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
    )
    return Authority(folder, name, certificate, key)


def service_account_key(folder: Path) -> tuple[Path, Path]:
    """The pair that signs and checks service-account tokens: (private, public). Existing ones are
    kept.
    """
    private, public = folder / "service-account.key", folder / "service-account.pub"
    if not (private.exists() and public.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(private, key)
        pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_private(public, pem)
    return private, public


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key for its owner's eyes only."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _YEARS)
    )


def _name(common_name: str, organisation: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(attributes)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Client:
    """A component that talks to the API server: its certificate's common name and group."""

    user: str
    group: str = ""


CONTROL_PLANE_CLIENTS = {
    "kube-controller-manager": Client("system:kube-controller-manager"),
    "kube-scheduler": Client("system:kube-scheduler"),
}


# It gets its rights from our manifest, not from being trusted.
TRAEFIK = Client("vdi:traefik")


def node_clients(node_name: str) -> dict[str, Client]:
    return {
        "kubelet": Client(f"system:node:{node_name}", "system:nodes"),
        "kube-proxy": Client("system:kube-proxy"),
    }


def write_credentials(layout: Layout, settings: ClusterSettings) -> None:
    """Make every key, certificate and kubeconfig that is not there yet."""
    layout.config.mkdir(mode=0o700, exist_ok=True)
    ca = authority(layout.pki, "ca", f"vdi cluster {settings.name}")
    if settings.networks:
        services, api_service = settings.networks.services, settings.networks.api_service
    else:
        services = CONTROL_PLANE_SERVICES
        api_service = services.replace(".0/16", ".1")
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    ca.issue(
        "apiserver",
        "kube-apiserver",
        names=[*names, "localhost", settings.api_host, api_service],
        server=True,
    )
    ca.issue("apiserver-kubelet", "kube-apiserver-kubelet", organisation="system:masters")
    service_account_key(layout.pki)

    etcd_ca = authority(layout.pki, "etcd-ca", f"vdi cluster {settings.name} etcd")
    etcd_ca.issue("etcd", "etcd", names=["localhost", "127.0.0.1"], server=True)
    etcd_ca.issue("apiserver-etcd", "kube-apiserver")

    clients = dict(CONTROL_PLANE_CLIENTS)
    if not settings.control_plane_only:
        clients["traefik"] = TRAEFIK
        write_node_credentials(layout, settings)
        web_ca = authority(
            layout.pki, "web-ca", f"vdi cluster {settings.name} desktops", only_domain=WEB_DOMAIN
        )
        web_ca.issue("web", f"*.{WEB_DOMAIN}", names=[f"*.{WEB_DOMAIN}", WEB_DOMAIN], server=True)
    _write_clients(layout, settings, ca, clients)
    admin = ca.issue("admin", "vdi:admin", organisation="system:masters")
    _write_kubeconfig(layout.kubeconfig, settings, ca, admin, f"vdi-{settings.name}")
    give_to_invoker(layout.kubeconfig)


def write_node_credentials(layout: Layout, settings: ClusterSettings) -> None:
    """Make what the node of this layout needs: kubelet's own certificate, and those of its
    clients.
    """
    layout.config.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = authority(layout.pki, "ca", f"vdi cluster {settings.name}")
    name = settings.name_of(layout.number)
    address = settings.node_networks.address_of(layout.number)
    ca.issue(layout.certificate("kubelet-server"), name, names=[name, address], server=True)
    _write_clients(layout, settings, ca, node_clients(name))


def _write_clients(
    layout: Layout, settings: ClusterSettings, ca: Authority, clients: Mapping[str, Client]
) -> None:
    for component, client in clients.items():
        certificate = ca.issue(
            layout.certificate(component), client.user, organisation=client.group
        )
        _write_kubeconfig(
            layout.component_kubeconfig(component), settings, ca, certificate, component
        )


def _write_kubeconfig(
    path: Path, settings: ClusterSettings, ca: Authority, certificate: tuple[Path, Path], user: str
) -> None:
    context = f"vdi-{settings.name}"
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [
            {
                "name": context,
                "cluster": {
                    "server": settings.server,
                    "certificate-authority-data": _inline(ca.file),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _inline(certificate[0]),
                    "client-key-data": _inline(certificate[1]),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
    }
    # JSON is YAML, and every reader takes it.
    write_private(path, json.dumps(content, indent=1).encode())


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
