"""Install options -> the values file of one generation, ordered, with a comment where a value needs a reason. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from vdi.kasm.generations import kasm_version
from vdi.kasm.value_paths import set_at
from vdi.kasm.values.options import Ingress, InstallOptions, Profile, check
from vdi.kasm.values.schema import known
from vdi.kasm.values.tuned import tuned

LOCAL_PATH = "local-path"
Entry = tuple[str, Any, str]
"""Path, value, comment."""


def render(options: InstallOptions) -> str:
    """The values file. Raises BadOptionsError."""
    check(options)
    return to_yaml(list(entries(options)), heading(options))


def heading(options: InstallOptions) -> str:
    """What the file is for, and how it is used."""
    version = ".".join(str(number) for number in options.chart_version)
    lines = [
        f"Kasm {kasm_version(version)}: values for chart {options.generation.chart} {version}"
        f" (generation {options.generation.letter}).",
        "There are no passwords in this file; docs/kasm-install.md explains where they come from.",
    ]
    if options.profile is not Profile.CHART:
        node = "2 CPUs and 4 GB" if options.profile is Profile.NODE_4GB else "4 CPUs and 8 GB"
        lines.append(f"Sized for one K3s node with {node}.")
    if options.ingress is Ingress.NONE:
        service = options.generation.component("proxy")
        name = service.service.format(release=options.release, zone="default") if service else ""
        lines.append(
            f"Nothing in these values gives browsers access: route {options.hostname} to Service {name}, port 8080 "
            "(HTTP)."
        )
    return "\n".join(lines)


def entries(options: InstallOptions) -> Iterator[Entry]:
    """Every value that is set, in the chart's order of subjects."""
    paths = options.generation.paths
    yield paths["hostname"], options.hostname, "the name that users open; it must resolve to a node"
    yield paths["size"], options.size, _SIZES[options.size]
    yield paths["pull_policy"], "IfNotPresent", "an image that exists on the node is not pulled again"
    if "image_tag" in paths:
        version = kasm_version(".".join(str(number) for number in options.chart_version))
        yield paths["image_tag"], version, "some chart versions name images of the development branch"
    if options.resolver:
        yield (
            paths["resolver"],
            options.resolver,
            "Service kube-system/kube-dns; wrong if rendered without a cluster",
        )
    yield from _way_in(options)
    yield from _replicas(options)
    yield from _secrets(options)
    yield from _database(options)
    yield from tuned(options.generation, options.chart_version, options.profile)


_SIZES = {
    "small": "for 10 to 15 sessions",
    "medium": "for 25 to 30 sessions",
    "large": "for 50 sessions and more",
}


def _way_in(options: InstallOptions) -> Iterator[Entry]:
    paths = options.generation.paths
    if "proxy_service_type" in paths:
        if options.ingress is Ingress.LOADBALANCER:
            yield (
                paths["proxy_service_type"],
                "LoadBalancer",
                "uses port 443 of the node: on K3s, Traefik must be disabled",
            )
        else:
            yield paths["proxy_service_type"], "ClusterIP", "a LoadBalancer would conflict with Traefik on port 443"
        yield paths["ingress_enabled"], options.ingress is Ingress.TRAEFIK, ""
    if options.ingress is Ingress.TRAEFIK and known(options.generation, paths["ingress_class"], options.chart_version):
        yield paths["ingress_class"], "traefik", "the Traefik of K3s"
    if options.tls_secret:
        yield paths["tls_secret"], options.tls_secret, "a Secret of type kubernetes.io/tls in the same namespace"
        if "tls_create" in paths:
            yield paths["tls_create"], False, "it already exists"


def _replicas(options: InstallOptions) -> Iterator[Entry]:
    """Where the chart requires them: also of components that are off, and whatever the profile says."""
    if not options.generation.requires_replicas:
        return
    comment = "the chart rejects values without replicas when Helm 4 installs it"
    for component in options.generation.present(options.chart_version):
        if component.replicas_path:
            count = component.replicas[options.size] if options.profile is Profile.CHART else 1
            yield component.replicas_path, count, comment
            comment = ""


def _secrets(options: InstallOptions) -> Iterator[Entry]:
    name = options.passwords_secret
    if not name:
        return
    paths = options.generation.paths
    yield paths["passwords_create"], False, "it already exists"
    yield (
        paths["passwords_secret"],
        name,
        "with manager-token, service-token, db-password, admin-password, user-password",
    )
    if name != options.generation.secrets.format(release=options.release) and not _database_secret(options):
        yield (
            paths["database_secret"],
            {"name": name, "key": "db-password"},
            f"otherwise some init containers look in {options.release}-secrets, whatever kasmSecrets.name is",
        )


def _database(options: InstallOptions) -> Iterator[Entry]:
    paths, database = options.generation.paths, options.database
    if database is None:
        if options.storage_class:
            yield paths["storage_class"], options.storage_class, ""
        elif options.profile is not Profile.CHART:
            yield paths["storage_class"], LOCAL_PATH, "the storage class of K3s"
        if "retention_enabled" in paths:
            yield paths["retention_enabled"], True, ""
        yield paths["retention"], "Retain", "Delete would delete the data with the StatefulSet, also on an upgrade"
        return
    major = options.generation.postgres_major
    yield paths["database_external"], True, f"a PostgreSQL {major} outside the chart"
    yield paths["database_host"], database.host, ""
    yield paths["database_port"], database.port, ""
    yield paths["database_name"], database.name, ""
    yield paths["database_user"], database.user, ""
    if secret := _database_secret(options):
        yield paths["database_secret"], {"name": secret, "key": database.key}, "its password"
    if database.master_user:
        yield (
            paths["database_master"],
            {
                "username": database.master_user,
                "secret": {"name": database.master_secret, "key": database.master_key},
            },
            "the user that may create the database and its user, at the first installation",
        )


def _database_secret(options: InstallOptions) -> str:
    return options.database.secret if options.database else ""


def nested(found: Iterator[Entry] | list[Entry]) -> dict[str, Any]:
    """Entries as the tree that they make."""
    tree: dict[str, Any] = {}
    for path, value, _ in found:
        set_at(tree, path, value)
    return tree


def to_yaml(found: list[Entry], head: str = "") -> str:
    """Entries as YAML, each comment above its key. Blocks stand where their first entry stands."""
    comments = {path: comment for path, _, comment in found if comment}
    lines = [f"# {line}" for line in head.splitlines()]
    lines += _lines(nested(found), "", comments, top=True)
    return "\n".join(lines) + "\n"


def _lines(tree: Mapping[str, Any], prefix: str, comments: Mapping[str, str], *, top: bool = False) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        if top:
            yield ""
        if comment := comments.get(f"{prefix}{key}"):
            yield f"{indent}# {comment}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_scalar(key)}:"
            yield from _lines(value, f"{prefix}{key}.", comments)
        else:
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """One value in YAML's words, on one line; a text that could be read as something else is quoted."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
