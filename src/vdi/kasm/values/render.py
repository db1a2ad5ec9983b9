"""Answers -> the values file of one generation, ordered, with a comment where a value needs a reason. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from vdi.kasm.generations import kasm_version
from vdi.kasm.values.options import Ingress, InstallOptions, Profile, check
from vdi.kasm.values.paths import set_at
from vdi.kasm.values.schema import known
from vdi.kasm.values.tuned import tuned

LOCAL_PATH = "local-path"
Entry = tuple[str, Any, str]
"""Path, value, comment."""


def render(answers: InstallOptions) -> str:
    """The values file. Raises BadAnswersError."""
    check(answers)
    return to_yaml(list(entries(answers)), heading(answers))


def heading(answers: InstallOptions) -> str:
    """What the file is for, and how it is used."""
    version = ".".join(str(number) for number in answers.chart_version)
    lines = [
        f"Kasm {kasm_version(version)}: values for chart {answers.generation.chart} {version}"
        f" (generation {answers.generation.letter}).",
        "There are no passwords in this file; see docs/kasm.md for where they come from.",
    ]
    if answers.profile is not Profile.CHART:
        node = "2 CPUs and 4 GB" if answers.profile is Profile.NODE_4GB else "4 CPUs and 8 GB"
        lines.append(f"Cut for one K3s node with {node}.")
    if answers.ingress is Ingress.NONE:
        service = answers.generation.component("proxy")
        name = service.service.format(release=answers.release, zone="default") if service else ""
        lines.append(f"Nothing here lets browsers in: route {answers.hostname} to Service {name}, port 8080 (HTTP).")
    return "\n".join(lines)


def entries(answers: InstallOptions) -> Iterator[Entry]:
    """Every value that is set, in the chart's order of subjects."""
    paths = answers.generation.paths
    yield paths["hostname"], answers.hostname, "the name that people type; it must resolve to a node"
    yield paths["size"], answers.size, _SIZES[answers.size]
    yield paths["pull_policy"], "IfNotPresent", "an image that is there is not fetched again"
    if "image_tag" in paths:
        version = kasm_version(".".join(str(number) for number in answers.chart_version))
        yield paths["image_tag"], version, "some chart versions name images of the development branch"
    if answers.resolver:
        yield (
            paths["resolver"],
            answers.resolver,
            "Service kube-system/kube-dns; rendered without a cluster it is wrong",
        )
    yield from _way_in(answers)
    yield from _replicas(answers)
    yield from _secrets(answers)
    yield from _database(answers)
    yield from tuned(answers.generation, answers.chart_version, answers.profile)


_SIZES = {
    "small": "for 10 to 15 sessions",
    "medium": "for 25 to 30 sessions",
    "large": "for 50 sessions and more",
}


def _way_in(answers: InstallOptions) -> Iterator[Entry]:
    paths = answers.generation.paths
    if "proxy_service_type" in paths:
        if answers.ingress is Ingress.LOADBALANCER:
            yield (
                paths["proxy_service_type"],
                "LoadBalancer",
                "takes port 443 of the node: on K3s its Traefik must be off",
            )
        else:
            yield paths["proxy_service_type"], "ClusterIP", "a LoadBalancer would fight with Traefik for port 443"
        yield paths["ingress_enabled"], answers.ingress is Ingress.TRAEFIK, ""
    if answers.ingress is Ingress.TRAEFIK and known(answers.generation, paths["ingress_class"], answers.chart_version):
        yield paths["ingress_class"], "traefik", "the Traefik of K3s"
    if answers.tls_secret:
        yield paths["tls_secret"], answers.tls_secret, "a Secret of type kubernetes.io/tls in the same namespace"
        if "tls_create" in paths:
            yield paths["tls_create"], False, "it exists already"


def _replicas(answers: InstallOptions) -> Iterator[Entry]:
    """Where the chart requires them: also of components that are off, and whatever the profile says."""
    if not answers.generation.requires_replicas:
        return
    comment = "the chart refuses values without replicas when Helm 4 installs it"
    for component in answers.generation.present(answers.chart_version):
        if component.replicas_path:
            count = component.replicas[answers.size] if answers.profile is Profile.CHART else 1
            yield component.replicas_path, count, comment
            comment = ""


def _secrets(answers: InstallOptions) -> Iterator[Entry]:
    name = answers.passwords_secret
    if not name:
        return
    paths = answers.generation.paths
    yield paths["passwords_create"], False, "it exists already"
    yield (
        paths["passwords_secret"],
        name,
        "with manager-token, service-token, db-password, admin-password, user-password",
    )
    if name != answers.generation.secrets.format(release=answers.release) and not _database_secret(answers):
        yield (
            paths["database_secret"],
            {"name": name, "key": "db-password"},
            f"some init containers look in {answers.release}-secrets otherwise, whatever kasmSecrets.name says",
        )


def _database(answers: InstallOptions) -> Iterator[Entry]:
    paths, database = answers.generation.paths, answers.database
    if database is None:
        if answers.storage_class:
            yield paths["storage_class"], answers.storage_class, ""
        elif answers.profile is not Profile.CHART:
            yield paths["storage_class"], LOCAL_PATH, "the storage class of K3s"
        if "retention_enabled" in paths:
            yield paths["retention_enabled"], True, ""
        yield paths["retention"], "Retain", "Delete would remove the data with the StatefulSet, also on an upgrade"
        return
    major = answers.generation.postgres_major
    yield paths["database_external"], True, f"a PostgreSQL {major} outside the chart"
    yield paths["database_host"], database.host, ""
    yield paths["database_port"], database.port, ""
    yield paths["database_name"], database.name, ""
    yield paths["database_user"], database.user, ""
    if secret := _database_secret(answers):
        yield paths["database_secret"], {"name": secret, "key": database.key}, "its password"
    if database.master_user:
        yield (
            paths["database_master"],
            {
                "username": database.master_user,
                "secret": {"name": database.master_secret, "key": database.master_key},
            },
            "who may create the database and its user, at the first install",
        )


def _database_secret(answers: InstallOptions) -> str:
    return answers.database.secret if answers.database else ""


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
