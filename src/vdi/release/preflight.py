"""What stands in the way of an install or upgrade, each with its remedy. Pure: Facts -> findings.

`error` refuses; a `warning` is something that will be felt later; `unknown` could not be looked at.
"""

from collections.abc import Callable, Iterator
from datetime import datetime

from vdi.cluster.units import parse_time
from vdi.findings.model import Finding, Remedy, Severity
from vdi.helm.releases import MANAGED_BY, PENDING, RELEASE_NAME, RELEASE_NAMESPACE
from vdi.helm.run import parse_version
from vdi.kube.certificate import covers
from vdi.release.apply import CRD_KIND as CRD
from vdi.release.apply import crds_of, losses
from vdi.release.chart import options_of, rollback_command, version_numbers
from vdi.release.facts import Facts, Stranger, settings_of
from vdi.release.needs import missing_classes, missing_keys, refused_host_network, unmatched_selectors, unpullable

# CEL rules of CRDs and ValidatingAdmissionPolicies are stable from there on (requirement E8).
OLDEST_KUBERNETES = (1, 30)

_SHOWN = 5


Check = Callable[[Facts, datetime], Iterator[Finding]]


def run_checks(facts: Facts, now: datetime, *, upgrading: bool) -> list[Finding]:
    """All findings, in the order of the checks; what could not be read comes last."""
    checks = (*CHECKS, _upgradable if upgrading else _installable)
    found = [finding for check in checks for finding in check(facts, now)]
    found += [_finding("readable", Severity.UNKNOWN, f"Not checked: {unread.text}") for unread in facts.unread]
    return found


def _finding(code: str, severity: Severity, message: str, remedy: Remedy = Remedy()) -> Finding:
    return Finding(code=code, severity=severity, message=message, remedy=remedy)


def _versions(facts: Facts, _: datetime) -> Iterator[Finding]:
    yield _finding("helm", Severity.OK, facts.helm.words)
    version = parse_version(facts.kubernetes) or (0, 0, 0)
    if version[:2] < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        words = f"Kubernetes is {facts.kubernetes}; {oldest} or later is required: its API validates our objects."
        yield _finding(
            "kubernetes",
            Severity.ERROR,
            words,
            Remedy("Upgrade the cluster (K3s: run the installation command again)."),
        )
    else:
        yield _finding("kubernetes", Severity.OK, f"Kubernetes {facts.kubernetes} at {facts.server}")


def _namespaces(facts: Facts, _: datetime) -> Iterator[Finding]:
    for name, namespace in facts.namespaces.items():
        if namespace and (
            (namespace.get("status") or {}).get("phase") == "Terminating"
            or namespace["metadata"].get("deletionTimestamp")
        ):
            words = f"The namespace {name} is being deleted; nothing can be created in it."
            remedy = Remedy(
                "Wait until it is deleted. If it remains, this command shows what blocks it:",
                (f"kubectl get namespace {name} -o yaml",),
            )
            yield _finding("namespaces", Severity.ERROR, words, remedy)
    yield from (_finding("namespaces", Severity.ERROR, words, remedy) for words, remedy in refused_host_network(facts))


def _nodes(facts: Facts, _: datetime) -> Iterator[Finding]:
    usable = [node for node in facts.nodes if node.ready and not node.spec.unschedulable]
    if facts.nodes and not usable:
        words = f"None of {len(facts.nodes)} nodes is ready and accepts pods."
        yield _finding(
            "nodes", Severity.ERROR, words, Remedy("Read the conditions of the nodes.", ("kubectl describe nodes",))
        )
    elif usable:
        yield _finding("nodes", Severity.OK, f"{len(usable)} of {len(facts.nodes)} nodes ready")
    elif not facts.is_unread("nodes"):
        yield _finding("nodes", Severity.ERROR, "The cluster has no node.", Remedy("Add a node to the cluster."))


def _placement(facts: Facts, _: datetime) -> Iterator[Finding]:
    for workload, labels in unmatched_selectors(facts):
        words = f"No node has the labels {labels}, which the values require for {workload}: its pod would never start."
        only = facts.nodes[0].metadata.name if len(facts.nodes) == 1 else ""
        command = f"kubectl label node {only} {labels}" if only else "kubectl get nodes --show-labels"
        remedy = Remedy("Label the intended node, or change its nodeSelector in the values.", (command,))
        yield _finding("placement", Severity.ERROR, words, remedy)


def _rights(facts: Facts, _: datetime) -> Iterator[Finding]:
    if not facts.lacking:
        yield _finding("rights", Severity.OK, "your account may create everything in the chart")
        return
    more = f" and {len(facts.lacking) - _SHOWN} more" if len(facts.lacking) > _SHOWN else ""
    words = f"Your account may not: {', '.join(facts.lacking[:_SHOWN])}{more}."
    yield _finding(
        "rights", Severity.ERROR, words, Remedy("Ask an administrator of the cluster; installing needs cluster-admin.")
    )


def _kinds(facts: Facts, _: datetime) -> Iterator[Finding]:
    own = {(f"{crd['spec']['group']}", crd["spec"]["names"]["kind"]) for crd in crds_of(facts.objects)}
    if not facts.traefik_known:
        words = "The cluster does not know Traefik's IngressRoute: neither portal nor desktops would have an address."
        remedy = Remedy(
            "Install Traefik 3 with its CRDs; K3s since 1.32 includes it (start it without --disable=traefik)."
        )
        yield _finding("traefik", Severity.ERROR, words, remedy)
    for version, kind in sorted(facts.unknown):
        group = version.partition("/")[0]
        if (group, kind) in own or (group == "traefik.io" and not facts.traefik_known):
            continue
        words = f"The cluster does not know {kind} ({version}), which these values create."
        yield _finding(
            "kinds", Severity.ERROR, words, Remedy(_WHOSE.get(group, "Install the software that provides this kind."))
        )


_WHOSE = {
    "vdi.kasm.io": "Set crds.install=true, or apply charts/vdi/files/crds first.",
    "cert-manager.io": "Install cert-manager, or set a Secret in traefik.tlsSecret.",
    "monitoring.coreos.com": "Install the Prometheus operator, or turn off monitoring.* (docs/monitoring.md).",
}


def _traefik(facts: Facts, _: datetime) -> Iterator[Finding]:
    if not facts.traefik_known:
        return
    if not facts.traefiks:
        words = "No Traefik was found on this cluster. If it runs elsewhere, it must read this cluster's IngressRoutes."
        remedy = Remedy("Install Traefik 3 with its CRDs (docs/install.md). K3s includes it, in namespace kube-system.")
        yield _finding("traefik", Severity.WARNING, words, remedy)
        return
    spaces = {facts.namespace, *facts.settings.namespaces}
    watching = [traefik for traefik in facts.traefiks if not traefik.namespaces or spaces <= traefik.namespaces]
    point = facts.settings.cluster.entry_point
    if not watching:
        seen = ", ".join(sorted(facts.traefiks[0].namespaces))
        words = f"Traefik watches only {seen}, not {', '.join(sorted(spaces))}."
        remedy = Remedy("Add them to --providers.kubernetescrd.namespaces (or remove that option).")
        yield _finding("traefik", Severity.ERROR, words, remedy)
    elif not any(traefik.ready for traefik in watching):
        yield _finding(
            "traefik", Severity.WARNING, f"No replica of {watching[0].object} is ready.", Remedy("Describe its pods.")
        )
    elif all(traefik.entry_points and point.lower() not in traefik.entry_points for traefik in watching):
        there = ", ".join(sorted(watching[0].entry_points))
        words = f"Traefik has no entry point {point!r} (traefik.entryPoint); it has: {there}."
        yield _finding(
            "traefik", Severity.ERROR, words, Remedy(f"Set traefik.entryPoint to one of these with TLS: {there}.")
        )
    else:
        yield _finding("traefik", Severity.OK, f"{watching[0].object}, entry point {point}")


def _sessions_namespaces(facts: Facts, _: datetime) -> Iterator[Finding]:
    if facts.before is None:
        return
    before, after = settings_of(tuple(facts.before.objects())).namespaces, facts.settings.namespaces
    if before[0] != after[0] and not {*before}.isdisjoint(after):
        words = (
            f"The first namespace of sessions would be {after[0]} instead of {before[0]}: two operators would be "
            "active at once, and all desktops would get new addresses."
        )
        remedy = Remedy(f"Keep {before[0]} as the first of sessions.namespaces.")
        yield _finding("sessions", Severity.ERROR, words, remedy)
    for namespace in before:
        if namespace not in after:
            words = f"The namespace {namespace} would have no operator: its sessions would not be processed."
            remedy = Remedy(
                "End them first, or keep the namespace in sessions.namespaces.",
                (f"kubectl -n {namespace} get vdisessions",),
            )
            yield _finding("sessions", Severity.WARNING, words, remedy)


def _storage(facts: Facts, _: datetime) -> Iterator[Finding]:
    there = sorted(storage_class["metadata"]["name"] for storage_class in facts.classes)
    missing = list(missing_classes(facts))
    for what, storage_class in missing:
        named = f"the StorageClass {storage_class!r}" if storage_class else "a default StorageClass"
        words = f"{what} needs {named}, which does not exist; available: {', '.join(there) or 'none at all'}."
        yield _finding(
            "storage", Severity.ERROR, words, Remedy("Set one of those in the values, or install a provisioner.")
        )
    if not missing and there:
        yield _finding("storage", Severity.OK, f"StorageClasses: {', '.join(there)}")


def _secrets(facts: Facts, _: datetime) -> Iterator[Finding]:
    for words, remedy in missing_keys(facts):
        yield _finding("secrets", Severity.ERROR, words, remedy)


def _images(facts: Facts, _: datetime) -> Iterator[Finding]:
    for image, words, certain in unpullable(facts):
        level = Severity.ERROR if certain else Severity.WARNING
        yield _finding("images", level, f"The image {image} {words}", Remedy("See docs/install.md, section Images."))


def _certificate(facts: Facts, now: datetime) -> Iterator[Finding]:
    policy = facts.settings.cluster
    made = {
        (obj["metadata"].get("namespace") or facts.namespace, obj["spec"].get("secretName"))
        for obj in facts.objects
        if obj["kind"] == "Certificate"
    }
    host = f"portal.{policy.domain}"
    for certificate in facts.certificates:
        where = f"The TLS Secret {certificate.namespace}/{certificate.secret}"
        create = Remedy(
            "" if facts.namespaces.get(certificate.namespace) else "When the namespace exists:",
            (
                f"kubectl -n {certificate.namespace} create secret tls {certificate.secret}"
                " --cert=fullchain.pem --key=key.pem",
            ),
        )
        if (certificate.namespace, certificate.secret) in made:
            continue
        if certificate.problem == "missing":
            words = f"{where} does not exist; without it, Traefik presents its own certificate, which browsers reject."
            yield _finding("certificate", Severity.WARNING, words, create)
        elif certificate.problem:
            yield _finding("certificate", Severity.ERROR, f"{where} cannot be used: {certificate.problem}.", create)
        elif not any(covers(name, host) for name in certificate.names):
            words = f"{where} is for {', '.join(certificate.names)}, not for *.{policy.domain}."
            yield _finding("certificate", Severity.WARNING, words, create)
        elif parse_time(certificate.ends) < now:
            yield _finding("certificate", Severity.WARNING, f"{where} expired on {certificate.ends}.", create)
        else:
            yield _finding(
                "certificate", Severity.OK, f"{certificate.namespace}/{certificate.secret} until {certificate.ends}"
            )


def _names(facts: Facts, _: datetime) -> Iterator[Finding]:
    for host, problem in facts.names.items():
        if problem:
            words = f"{host} cannot be resolved from here: {problem}."
            remedy = Remedy(f"Create a DNS record *.{facts.settings.cluster.domain} that points to Traefik.")
            yield _finding("dns", Severity.WARNING, words, remedy)
    if facts.names and not any(facts.names.values()):
        yield _finding("dns", Severity.OK, f"{', '.join(facts.names)} have addresses")


def _dry_run(facts: Facts, _: datetime) -> Iterator[Finding]:
    merged = facts.before is not None and facts.before.apply_method != "ssa"
    for refusal in facts.refusals:
        if facts.lacking and refusal.reason == "Forbidden" and " cannot " in refusal.message:
            continue  # what the verdict on rights says already
        # Helm 3 patches, where this dry run merges: what is invalid only then is no reason to refuse.
        level = Severity.WARNING if merged and refusal.reason == "Invalid" else Severity.ERROR
        yield _finding("api server", level, f"The API server refuses {refusal.object}: {refusal.message}")


def _owners(facts: Facts, _: datetime) -> Iterator[Finding]:
    for stranger in facts.strangers:
        what = f"{stranger.kind} {stranger.where + '/' if stranger.where else ''}{stranger.name}"
        if stranger.kind == CRD and not stranger.owner:
            continue  # applied by hand: the release takes them over
        belongs = f"to the release {stranger.owner}" if stranger.owner else "to no release"
        words = f"{what} already exists and belongs {belongs}, so Helm would not adopt it."
        yield _finding("owners", Severity.ERROR, words, _adoption(facts, stranger))


def _adoption(facts: Facts, stranger: Stranger) -> Remedy:
    if stranger.kind == CRD:
        return Remedy("Set crds.install=false: only one release can install the CRDs.")
    if stranger.owner:
        return Remedy("Uninstall that release, or give this one other names and namespaces.")
    thing = f"{stranger.kind.lower()} {stranger.name}" + (f" -n {stranger.where}" if stranger.where else "")
    notes = f"{RELEASE_NAME}={facts.release} {RELEASE_NAMESPACE}={facts.namespace}"
    labels = " ".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    adopt = (f"kubectl annotate {thing} {notes}", f"kubectl label {thing} {labels}")
    if stranger.kind == "Namespace":
        return Remedy("Set sessions.createNamespace=false, or let the release adopt it:", adopt)
    return Remedy("Delete it if it is a leftover, or let the release adopt it:", adopt)


def _custom_kinds(facts: Facts, _: datetime) -> Iterator[Finding]:
    for loss in losses(facts.crds, crds_of(facts.objects)):
        if loss.stored:
            words = f"{loss.crd}: objects are stored as {', '.join(loss.stored)}, which this chart's CRD does not have."
            remedy = Remedy("Install a chart that has it; an older chart cannot read the stored objects.")
        else:
            shown = ", ".join(loss.fields[:_SHOWN]) + (" ..." if len(loss.fields) > _SHOWN else "")
            words = (
                f"{loss.crd}: this chart's CRD lacks fields that the cluster's has ({shown}): the API server would drop"
                " them from every object that is written."
            )
            remedy = Remedy("Use a newer chart. To go back to an earlier revision: helm rollback.")
        yield _finding("crds", Severity.ERROR, words, remedy)


def _installable(facts: Facts, _: datetime) -> Iterator[Finding]:
    newest = facts.revisions[0] if facts.revisions else None
    if newest is None:
        return
    if newest.status in PENDING:
        yield _pending(facts)
    elif facts.before is not None:
        words = (
            f"The release {facts.release} is already installed in namespace {facts.namespace},"
            f" revision {facts.before.version}."
        )
        yield _finding("release", Severity.ERROR, words, Remedy("Change it with vdi upgrade."))


def _upgradable(facts: Facts, _: datetime) -> Iterator[Finding]:
    newest = facts.revisions[0] if facts.revisions else None
    if newest is None:
        words = f"There is no release {facts.release} in the namespace {facts.namespace}."
        remedy = Remedy("Install it with vdi install, or name its namespace with --namespace.")
        yield _finding("release", Severity.ERROR, words, remedy)
    elif newest.status in PENDING:
        yield _pending(facts)
    elif facts.before is None:
        words = f"No revision of {facts.release} is deployed (the newest is {newest.status}: {newest.summary})."
        yield _finding("release", Severity.ERROR, words, Remedy("Try again with vdi install."))
    elif version_numbers(facts.chart.version) < version_numbers(facts.before.chart.metadata.version):
        words = f"The chart is {facts.chart.version}, older than the deployed {facts.before.chart.metadata.version}."
        yield _finding(
            "release",
            Severity.WARNING,
            words,
            Remedy("Use a newer chart. To go back to an earlier revision: helm rollback."),
        )


def _pending(facts: Facts) -> Finding:
    newest = facts.revisions[0]
    words = (
        f"Revision {newest.version} of {facts.release} is {newest.status} since {newest.info.last_deployed}: helm "
        "is working on it, or was killed."
    )
    good = facts.before or next((revision for revision in facts.revisions if revision.status == "superseded"), None)
    options = options_of(facts.release, facts.place)
    again = (f"vdi uninstall{options}", f"vdi install{options}")
    commands = (rollback_command(facts.release, facts.place, good),) if good else again
    return _finding("release", Severity.ERROR, words, Remedy("If no one is working on it:", commands))


CHECKS: tuple[Check, ...] = (
    _versions,
    _nodes,
    _placement,
    _namespaces,
    _sessions_namespaces,
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
