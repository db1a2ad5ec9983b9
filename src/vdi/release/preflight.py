"""What stands in the way of an install or upgrade, each in words with its remedy. Pure: Facts -> verdicts.

`error` refuses; a `warning` is something that will be felt later; `unknown` could not be looked at.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from vdi.helm.binary import parse_version
from vdi.helm.releases import MANAGED_BY, PENDING, RELEASE_NAME, RELEASE_NAMESPACE
from vdi.kube.certificate import covers
from vdi.release.chart import version_numbers
from vdi.release.crds import KIND as CRD
from vdi.release.crds import losses, of_release
from vdi.release.facts import Facts, Stranger
from vdi.release.needs import missing_classes, missing_keys, refused_host_network, unpullable
from vdi.session.times import parse_time

OLDEST_KUBERNETES = (1, 30)
"""CEL rules of CRDs and ValidatingAdmissionPolicies are stable from there on (requirement E8)."""
_SHOWN = 5


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    UNKNOWN = "unknown"
    ERROR = "error"


class Verdict(NamedTuple):
    """One thing that was looked at."""

    check: str
    level: Level
    sentence: str
    remedy: str = ""


Check = Callable[[Facts, datetime], Iterator[Verdict]]


def judge(facts: Facts, now: datetime, *, upgrading: bool) -> list[Verdict]:
    """All verdicts, in the order of the checks; what could not be read comes last."""
    checks = (*CHECKS, _upgradable if upgrading else _installable)
    found = [verdict for check in checks for verdict in check(facts, now)]
    found += [Verdict("readable", Level.UNKNOWN, f"Not looked at: {words}") for words in facts.unread]
    return found


def refusals(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that forbid to go on."""
    return [one for one in verdicts if one.level is Level.ERROR]


def _versions(facts: Facts, _: datetime) -> Iterator[Verdict]:
    yield Verdict("helm", Level.OK, facts.helm.words)
    version = parse_version(facts.kubernetes) or (0, 0, 0)
    if version[:2] < OLDEST_KUBERNETES:
        wanted = ".".join(map(str, OLDEST_KUBERNETES))
        words = f"Kubernetes is {facts.kubernetes}; needed is {wanted} or later: its API checks our input."
        yield Verdict("kubernetes", Level.ERROR, words, "Upgrade the cluster (K3s: the same command as installed it).")
    else:
        yield Verdict("kubernetes", Level.OK, f"Kubernetes {facts.kubernetes} at {facts.server}")


def _namespaces(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for name, one in facts.namespaces.items():
        if one and (
            (one.get("status") or {}).get("phase") == "Terminating" or one["metadata"].get("deletionTimestamp")
        ):
            words = f"The namespace {name} is being deleted; nothing can be made in it."
            remedy = (
                f"Wait until it is gone. If it does not go: kubectl get namespace {name} -o yaml says what holds it."
            )
            yield Verdict("namespaces", Level.ERROR, words, remedy)
    yield from (Verdict("namespaces", Level.ERROR, words, remedy) for words, remedy in refused_host_network(facts))


def _nodes(facts: Facts, _: datetime) -> Iterator[Verdict]:
    usable = [one for one in facts.nodes if one.ready and not one.spec.unschedulable]
    if facts.nodes and not usable:
        words = f"None of {len(facts.nodes)} nodes is ready and open for pods."
        yield Verdict("nodes", Level.ERROR, words, "kubectl describe nodes says why.")
    elif usable:
        yield Verdict("nodes", Level.OK, f"{len(usable)} of {len(facts.nodes)} nodes ready")
    elif not any(words.startswith("nodes:") for words in facts.unread):
        yield Verdict("nodes", Level.ERROR, "The cluster has no node.", "Join one.")


def _rights(facts: Facts, _: datetime) -> Iterator[Verdict]:
    if not facts.lacking:
        yield Verdict("rights", Level.OK, "your account may make everything that the chart makes")
        return
    more = f" and {len(facts.lacking) - _SHOWN} more" if len(facts.lacking) > _SHOWN else ""
    words = f"Your account may not: {', '.join(facts.lacking[:_SHOWN])}{more}."
    yield Verdict("rights", Level.ERROR, words, "Ask an administrator of the cluster; installing needs cluster-admin.")


def _kinds(facts: Facts, _: datetime) -> Iterator[Verdict]:
    own = {(f"{one['spec']['group']}", one["spec"]["names"]["kind"]) for one in of_release(facts.objects)}
    if not facts.traefik_known:
        words = "The cluster does not know Traefik's IngressRoute: neither portal nor desktops would have an address."
        remedy = "Install Traefik 3 with its CRDs; K3s from 1.32 on brings it (start it without --disable=traefik)."
        yield Verdict("traefik", Level.ERROR, words, remedy)
    for version, kind in sorted(facts.unknown):
        group = version.partition("/")[0]
        if (group, kind) in own or (group == "traefik.io" and not facts.traefik_known):
            continue
        words = f"The cluster does not know {kind} ({version}), which these values make."
        yield Verdict("kinds", Level.ERROR, words, _WHOSE.get(group, "Install what brings that kind."))


_WHOSE = {
    "vdi.kasm.io": "Set crds.install=true, or apply charts/vdi/files/crds before.",
    "cert-manager.io": "Install cert-manager, or name a Secret in traefik.tlsSecret.",
    "monitoring.coreos.com": "Install the Prometheus operator, or switch monitoring.* off (docs/monitoring.md).",
}


def _traefik(facts: Facts, _: datetime) -> Iterator[Verdict]:
    if not facts.traefik_known:
        return
    if not facts.traefiks:
        words = "No Traefik was found on this cluster. If it runs elsewhere, it must read this cluster's IngressRoutes."
        yield Verdict("traefik", Level.WARNING, words, "K3s and Traefik's chart run it in kube-system and traefik.")
        return
    spaces = {facts.namespace, facts.settings.namespace}
    watching = [one for one in facts.traefiks if not one.namespaces or spaces <= one.namespaces]
    point = facts.settings.policy.entry_point
    if not watching:
        seen = ", ".join(sorted(facts.traefiks[0].namespaces))
        words = f"Traefik looks at {seen} only, not at {', '.join(sorted(spaces))}."
        remedy = "Add them to --providers.kubernetescrd.namespaces (or leave that option out)."
        yield Verdict("traefik", Level.ERROR, words, remedy)
    elif not any(one.ready for one in watching):
        yield Verdict("traefik", Level.WARNING, f"No replica of {watching[0].object} is ready.", "Describe its pods.")
    elif all(one.entry_points and point.lower() not in one.entry_points for one in watching):
        there = ", ".join(sorted(watching[0].entry_points))
        words = f"Traefik has no entry point {point!r} (traefik.entryPoint); it has: {there}."
        yield Verdict("traefik", Level.ERROR, words, f"Set traefik.entryPoint to the one with TLS of: {there}.")
    else:
        yield Verdict("traefik", Level.OK, f"{watching[0].object}, entry point {point}")


def _storage(facts: Facts, _: datetime) -> Iterator[Verdict]:
    there = sorted(one["metadata"]["name"] for one in facts.classes)
    missing = list(missing_classes(facts))
    for what, wanted in missing:
        named = f"the StorageClass {wanted!r}" if wanted else "a default StorageClass"
        words = f"{what} needs {named}, and there is none; there are: {', '.join(there) or 'none at all'}."
        yield Verdict("storage", Level.ERROR, words, "Name one of those in the values, or install a provisioner.")
    if not missing and there:
        yield Verdict("storage", Level.OK, f"StorageClasses: {', '.join(there)}")


def _secrets(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for words, remedy in missing_keys(facts):
        yield Verdict("secrets", Level.ERROR, words, remedy)


def _images(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for image, words, certain in unpullable(facts):
        level = Level.ERROR if certain else Level.WARNING
        yield Verdict("images", level, f"The image {image} {words}", "docs/install.md, section Images.")


def _certificate(facts: Facts, now: datetime) -> Iterator[Verdict]:
    policy = facts.settings.policy
    made = {
        (one["metadata"].get("namespace") or facts.namespace, one["spec"].get("secretName"))
        for one in facts.objects
        if one["kind"] == "Certificate"
    }
    host = f"portal.{policy.domain}"
    for one in facts.certificates:
        where = f"The TLS Secret {one.namespace}/{one.secret}"
        create = f"kubectl -n {one.namespace} create secret tls {one.secret} --cert=fullchain.pem --key=key.pem"
        create = create if facts.namespaces.get(one.namespace) else f"Once the namespace is there: {create}"
        if (one.namespace, one.secret) in made:
            continue
        if one.problem == "missing":
            words = f"{where} is not there; until it is, Traefik shows its own certificate, which browsers refuse."
            yield Verdict("certificate", Level.WARNING, words, create)
        elif one.problem:
            yield Verdict("certificate", Level.ERROR, f"{where} is of no use: {one.problem}.", create)
        elif not any(covers(name, host) for name in one.names):
            words = f"{where} is for {', '.join(one.names)}, not for *.{policy.domain}."
            yield Verdict("certificate", Level.WARNING, words, create)
        elif parse_time(one.ends) < now:
            yield Verdict("certificate", Level.WARNING, f"{where} ended on {one.ends}.", create)
        else:
            yield Verdict("certificate", Level.OK, f"{one.namespace}/{one.secret} until {one.ends}")


def _names(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for host, problem in facts.names.items():
        if problem:
            words = f"{host} has no address as seen from here: {problem}."
            remedy = f"Make a DNS record *.{facts.settings.policy.domain} that leads to Traefik."
            yield Verdict("dns", Level.WARNING, words, remedy)
    if facts.names and not any(facts.names.values()):
        yield Verdict("dns", Level.OK, f"{', '.join(facts.names)} have addresses")


def _dry_run(facts: Facts, _: datetime) -> Iterator[Verdict]:
    merged = facts.before is not None and facts.before.apply_method != "ssa"
    for one in facts.refusals:
        if facts.lacking and one.reason == "Forbidden" and " cannot " in one.message:
            continue  # what the verdict on rights says already
        # Helm 3 patches, where this dry run merges: what is invalid only then is no reason to refuse.
        level = Level.WARNING if merged and one.reason == "Invalid" else Level.ERROR
        yield Verdict("api server", level, f"The API server refuses {one.object}: {one.message}")


def _owners(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for one in facts.strangers:
        what = f"{one.kind} {one.where + '/' if one.where else ''}{one.name}"
        if one.kind == CRD and not one.owner:
            continue  # applied by hand: the release takes them over
        belongs = f"to the release {one.owner}" if one.owner else "to no release"
        words = f"{what} is there already and belongs {belongs}, so Helm would refuse to take it over."
        yield Verdict("owners", Level.ERROR, words, _adoption(facts, one))


def _adoption(facts: Facts, one: Stranger) -> str:
    if one.kind == CRD:
        return "One release brings the CRDs: set crds.install=false for every other."
    if one.owner:
        return "Uninstall that release, or give this one other names and namespaces."
    thing = f"{one.kind.lower()} {one.name}" + (f" -n {one.where}" if one.where else "")
    notes = f"{RELEASE_NAME}={facts.release} {RELEASE_NAMESPACE}={facts.namespace}"
    labels = " ".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    adopt = f"kubectl annotate {thing} {notes}; kubectl label {thing} {labels}"
    if one.kind == "Namespace":
        return f"Set sessions.createNamespace=false, or let the release have it: {adopt}"
    return f"Delete it if it is a leftover, or let the release have it: {adopt}"


def _custom_kinds(facts: Facts, _: datetime) -> Iterator[Verdict]:
    for loss in losses(facts.crds, of_release(facts.objects)):
        if loss.stored:
            words = f"{loss.crd}: objects are stored as {', '.join(loss.stored)}, which this chart's CRD does not have."
            remedy = "Install a chart that has it; an older one cannot read what is stored."
        else:
            shown = ", ".join(loss.fields[:_SHOWN]) + (" ..." if len(loss.fields) > _SHOWN else "")
            words = (
                f"{loss.crd}: this chart's CRD lacks fields that the cluster's has ({shown}): the API server would drop"
                " them from every object that is written."
            )
            remedy = "This chart is older than what is installed. To go back to a revision: vdi rollback."
        yield Verdict("crds", Level.ERROR, words, remedy)


def _installable(facts: Facts, _: datetime) -> Iterator[Verdict]:
    newest = facts.revisions[0] if facts.revisions else None
    if newest is None:
        return
    if newest.status in PENDING:
        yield _pending(facts)
    elif facts.before is not None:
        words = f"The release {facts.release} is there already, revision {facts.before.version}."
        yield Verdict("release", Level.ERROR, words, "vdi upgrade changes it.")


def _upgradable(facts: Facts, _: datetime) -> Iterator[Verdict]:
    newest = facts.revisions[0] if facts.revisions else None
    if newest is None:
        words = f"There is no release {facts.release} in the namespace {facts.namespace}."
        yield Verdict("release", Level.ERROR, words, "vdi install makes it; --namespace names another place.")
    elif newest.status in PENDING:
        yield _pending(facts)
    elif facts.before is None:
        words = f"No revision of {facts.release} is in place (the newest is {newest.status}: {newest.summary})."
        yield Verdict("release", Level.ERROR, words, "vdi install tries it anew.")
    elif version_numbers(facts.chart.version) < version_numbers(facts.before.chart.metadata.version):
        words = (
            f"The chart is {facts.chart.version}, older than {facts.before.chart.metadata.version}, which is in place."
        )
        yield Verdict("release", Level.WARNING, words, "vdi rollback goes back to a revision that was.")


def _pending(facts: Facts) -> Verdict:
    newest = facts.revisions[0]
    words = (
        f"Revision {newest.version} of {facts.release} is {newest.status} since {newest.info.last_deployed}: helm works"
        " on it, or was killed while it did."
    )
    good = facts.before or next((one for one in facts.revisions if one.status == "superseded"), None)
    remedy = f"vdi rollback {good.version}" if good else "vdi uninstall, then vdi install"
    return Verdict("release", Level.ERROR, words, f"If nobody works on it: {remedy}")


CHECKS: tuple[Check, ...] = (
    _versions,
    _nodes,
    _namespaces,
    _rights,
    _owners,
    _custom_kinds,
    _kinds,
    _traefik,
    _storage,
    _secrets,
    _certificate,
    _names,
    _images,
    _dry_run,
)
