"""Obstacles to an install or upgrade, each with its remedy. Pure: `Facts` -> findings.

An `error` refuses, a `warning` will be felt later, `unknown` could not be read. A new check joins
`_CHECKS`.
"""

from collections.abc import Callable, Iterator

from vdi.cluster.units import parse_time
from vdi.doctor.objects.components import find_traefiks
from vdi.findings.model import Finding, Remedy, Severity
from vdi.helm.releases import MANAGED_BY, PENDING, RELEASE_NAME, RELEASE_NAMESPACE, last_good
from vdi.helm.run import parse_version
from vdi.release.chart import options_of, rollback_command, version_numbers
from vdi.release.diff import CRD_KIND, losses, read_crds
from vdi.release.facts import (
    Facts,
    ForeignObject,
    missing_classes,
    missing_keys,
    refused_host_network,
    settings_of,
    unmatched_selectors,
    unpullable,
)
from vdi.snapshot.certificate import covers

# CEL rules of CRDs and ValidatingAdmissionPolicies are stable from there on (requirement E8).
OLDEST_KUBERNETES = (1, 30)
_SHOWN = 5
# By API group: the software that provides its kinds.
_PROVIDERS = {
    "vdi.kasm.io": "Set crds.install=true, or apply charts/vdi/files/crds first.",
    "cert-manager.io": "Install cert-manager, or set a Secret in traefik.tlsSecret.",
    "monitoring.coreos.com": (
        "Install the Prometheus operator, or turn off monitoring.* (docs/monitoring.md)."
    ),
}
_NEWER_CHART = Remedy("Use a newer chart. To go back to an earlier revision: helm rollback.")


def run_checks(facts: Facts, *, upgrading: bool) -> list[Finding]:
    """All findings, in the order of the checks; unreadable objects come last."""
    findings: list[Finding] = []
    for check in (*_CHECKS, _upgradable if upgrading else _installable):
        findings += check(facts)
    for unread in facts.snapshot.unread:
        message = f"Not checked: {unread.kind}: {unread.words}"
        findings.append(
            Finding(
                code="readable",
                severity=Severity.UNKNOWN,
                message=message,
                remedy=unread.remedy,
            )
        )
    return findings


def _ok(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.OK, message=message)


def _error(code: str, message: str, remedy: Remedy | str = "") -> Finding:
    given = Remedy(remedy) if isinstance(remedy, str) else remedy
    return Finding(code=code, severity=Severity.ERROR, message=message, remedy=given)


def _warning(code: str, message: str, remedy: Remedy | str = "") -> Finding:
    given = Remedy(remedy) if isinstance(remedy, str) else remedy
    return Finding(code=code, severity=Severity.WARNING, message=message, remedy=given)


def _check_versions(facts: Facts) -> Iterator[Finding]:
    yield _ok("helm", facts.helm.words)
    version = parse_version(facts.kubernetes) or (0, 0, 0)
    if version[:2] < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        message = (
            f"Kubernetes is {facts.kubernetes}; {oldest} or later is required: its API validates"
            " our objects."
        )
        yield _error(
            "kubernetes", message, "Upgrade the cluster (K3s: run the installation command again)."
        )
    else:
        yield _ok("kubernetes", f"Kubernetes {facts.kubernetes} at {facts.server}")


def _check_namespaces(facts: Facts) -> Iterator[Finding]:
    for name in facts.namespaces:
        namespace = facts.snapshot.find("namespaces", name)
        if namespace and namespace.metadata.deletion_timestamp:
            text = "Wait until it is deleted. If it remains, this command shows what blocks it:"
            remedy = Remedy(text, (f"kubectl get namespace {name} -o yaml",))
            message = f"The namespace {name} is being deleted; nothing can be created in it."
            yield _error("namespaces", message, remedy)
    for message, remedy in refused_host_network(facts):
        yield _error("namespaces", message, remedy)


def _check_nodes(facts: Facts) -> Iterator[Finding]:
    nodes = facts.snapshot.objects.nodes
    usable = [node for node in nodes if node.ready and not node.spec.unschedulable]
    if nodes and not usable:
        message = f"None of {len(nodes)} nodes is ready and accepts pods."
        yield _error(
            "nodes",
            message,
            Remedy("Read the conditions of the nodes.", ("kubectl describe nodes",)),
        )
    elif usable:
        yield _ok("nodes", f"{len(usable)} of {len(nodes)} nodes ready")
    elif "nodes" not in facts.snapshot.unreadable_kinds:
        yield _error("nodes", "The cluster has no node.", "Add a node to the cluster.")


def _check_placement(facts: Facts) -> Iterator[Finding]:
    for workload, labels in unmatched_selectors(facts):
        message = (
            f"No node has the labels {labels}, which the values require for {workload}: its pod"
            " would never start."
        )
        names = list(facts.snapshot.nodes)
        only = names[0] if len(names) == 1 else ""
        command = "kubectl get nodes --show-labels"
        if only:
            command = f"kubectl label node {only} {labels}"
        remedy = Remedy(
            "Label the intended node, or change its nodeSelector in the values.", (command,)
        )
        yield _error("placement", message, remedy)


def _check_rights(facts: Facts) -> Iterator[Finding]:
    if not facts.lacking:
        yield _ok("rights", "your account may create everything in the chart")
        return
    more = ""
    if len(facts.lacking) > _SHOWN:
        more = f" and {len(facts.lacking) - _SHOWN} more"
    message = f"Your account may not: {', '.join(facts.lacking[:_SHOWN])}{more}."
    yield _error(
        "rights", message, "Ask an administrator of the cluster; installing needs cluster-admin."
    )


def _check_kinds(facts: Facts) -> Iterator[Finding]:
    own = {(crd.spec.group, crd.spec.names.kind) for crd in read_crds(facts.objects)}
    if not facts.traefik_known:
        message = (
            "The cluster does not know Traefik's IngressRoute: neither portal nor desktops would"
            " have an address."
        )
        text = (
            "Install Traefik 3 with its CRDs; K3s since 1.32 includes it (start it without"
            " --disable=traefik)."
        )
        yield _error("traefik", message, text)
    for version, kind in sorted(facts.unknown):
        group = version.partition("/")[0]
        if (group, kind) in own or (group == "traefik.io" and not facts.traefik_known):
            continue
        message = f"The cluster does not know {kind} ({version}), which these values create."
        yield _error(
            "kinds", message, _PROVIDERS.get(group, "Install the software that provides this kind.")
        )


def _check_traefik(facts: Facts) -> Iterator[Finding]:
    if not facts.traefik_known:
        return
    traefiks = find_traefiks(facts.snapshot)
    if not traefiks:
        message = (
            "No Traefik was found on this cluster. If it runs elsewhere, it must read this"
            " cluster's IngressRoutes."
        )
        text = (
            "Install Traefik 3 with its CRDs (docs/install.md). K3s includes it, in namespace"
            " kube-system."
        )
        yield _warning("traefik", message, text)
        return
    spaces = {facts.namespace, *facts.settings.namespaces}
    watching = []
    for traefik in traefiks:
        if not traefik.namespaces or spaces <= traefik.namespaces:
            watching.append(traefik)
    point = facts.settings.cluster.entry_point
    if not watching:
        seen = ", ".join(sorted(traefiks[0].namespaces))
        message = f"Traefik watches only {seen}, not {', '.join(sorted(spaces))}."
        yield _error(
            "traefik",
            message,
            "Add them to --providers.kubernetescrd.namespaces (or remove that option).",
        )
    elif not any(traefik.ready for traefik in watching):
        yield _warning(
            "traefik", f"No replica of {watching[0].object} is ready.", "Describe its pods."
        )
    elif all(
        traefik.entry_points and point.lower() not in traefik.entry_points for traefik in watching
    ):
        there = ", ".join(sorted(watching[0].entry_points))
        message = f"Traefik has no entry point {point!r} (traefik.entryPoint); it has: {there}."
        yield _error(
            "traefik", message, f"Set traefik.entryPoint to one of these with TLS: {there}."
        )
    else:
        yield _ok("traefik", f"{watching[0].object}, entry point {point}")


def _check_session_namespaces(facts: Facts) -> Iterator[Finding]:
    if facts.before is None:
        return
    before, after = settings_of(facts.before.objects()).namespaces, facts.settings.namespaces
    # The first namespace has the operator's Lease and the reservations of host names.
    if before[0] != after[0] and not {*before}.isdisjoint(after):
        message = (
            f"The first namespace of sessions would be {after[0]} instead of {before[0]}: two"
            " operators would be active at once, and all desktops would get new addresses."
        )
        yield _error("sessions", message, f"Keep {before[0]} as the first of sessions.namespaces.")
    for namespace in before:
        if namespace not in after:
            message = (
                f"The namespace {namespace} would have no operator: its sessions would not be"
                " processed."
            )
            text = "End them first, or keep the namespace in sessions.namespaces."
            yield _warning(
                "sessions", message, Remedy(text, (f"kubectl -n {namespace} get vdisessions",))
            )


def _check_storage(facts: Facts) -> Iterator[Finding]:
    there = sorted(each.metadata.name for each in facts.snapshot.objects.storageclasses)
    missing = list(missing_classes(facts))
    for needer, storage_class in missing:
        named = "a default StorageClass"
        if storage_class:
            named = f"the StorageClass {storage_class!r}"
        message = (
            f"{needer} needs {named}, which does not exist; available:"
            f" {', '.join(there) or 'none at all'}."
        )
        yield _error(
            "storage", message, "Set one of those in the values, or install a provisioner."
        )
    if not missing and there:
        yield _ok("storage", f"StorageClasses: {', '.join(there)}")


def _check_secrets(facts: Facts) -> Iterator[Finding]:
    for message, remedy in missing_keys(facts):
        yield _error("secrets", message, remedy)


def _check_images(facts: Facts) -> Iterator[Finding]:
    for image, problem, certain in unpullable(facts):
        make = _error if certain else _warning
        yield make("images", f"The image {image} {problem}", "See docs/install.md, section Images.")


def _check_certificate(facts: Facts) -> Iterator[Finding]:
    domain = facts.settings.cluster.domain
    # cert-manager makes these.
    made = set()
    for obj in facts.objects:
        if obj["kind"] == "Certificate":
            made.add(
                (obj["metadata"].get("namespace") or facts.namespace, obj["spec"].get("secretName"))
            )
    for certificate in facts.snapshot.certificates:
        namespace, secret = certificate.namespace, certificate.secret
        if (namespace, secret) in made:
            continue
        where = f"The TLS Secret {namespace}/{secret}"
        command = (
            f"kubectl -n {namespace} create secret tls {secret} --cert=fullchain.pem --key=key.pem"
        )
        create = Remedy(
            "When the namespace exists:" if namespace in facts.new_namespaces else "", (command,)
        )
        if certificate.problem == "missing":
            message = (
                f"{where} does not exist; without it, Traefik presents its own certificate, which"
                " browsers reject."
            )
            yield _warning("certificate", message, create)
        elif certificate.problem:
            yield _error("certificate", f"{where} cannot be used: {certificate.problem}.", create)
        elif not any(covers(name, f"portal.{domain}") for name in certificate.names):
            message = f"{where} is for {', '.join(certificate.names)}, not for *.{domain}."
            yield _warning("certificate", message, create)
        elif parse_time(certificate.ends) < facts.snapshot.now:
            yield _warning("certificate", f"{where} expired on {certificate.ends}.", create)
        else:
            yield _ok("certificate", f"{namespace}/{secret} until {certificate.ends}")


def _check_dns(facts: Facts) -> Iterator[Finding]:
    for host, problem in facts.names.items():
        if problem:
            text = f"Create a DNS record *.{facts.settings.cluster.domain} that points to Traefik."
            yield _warning("dns", f"{host} cannot be resolved from here: {problem}.", text)
    if facts.names and not any(facts.names.values()):
        yield _ok("dns", f"{', '.join(facts.names)} have addresses")


def _check_dry_run(facts: Facts) -> Iterator[Finding]:
    merged = facts.before is not None and facts.before.apply_method != "ssa"
    for refusal in facts.refusals:
        if facts.lacking and refusal.reason == "Forbidden" and " cannot " in refusal.message:
            continue  # the check of rights reports it already
        # Helm 3 patches, where this dry run merges: an object that is invalid only then is no
        # reason to refuse.
        make = _warning if merged and refusal.reason == "Invalid" else _error
        yield make("api server", f"The API server refuses {refusal.object}: {refusal.message}")


def _check_owners(facts: Facts) -> Iterator[Finding]:
    for foreign in facts.foreign:
        if foreign.kind == CRD_KIND and not foreign.owner:
            continue  # applied by hand: the release takes them over
        named = f"{foreign.kind} {foreign.where + '/' if foreign.where else ''}{foreign.name}"
        belongs = "to no release"
        if foreign.owner:
            belongs = f"to the release {foreign.owner}"
        message = f"{named} already exists and belongs {belongs}, so Helm would not adopt it."
        yield _error("owners", message, _adoption(facts, foreign))


def _adoption(facts: Facts, foreign: ForeignObject) -> Remedy:
    if foreign.kind == CRD_KIND:
        return Remedy("Set crds.install=false: only one release can install the CRDs.")
    if foreign.owner:
        return Remedy("Uninstall that release, or give this one other names and namespaces.")
    thing = f"{foreign.kind.lower()} {foreign.name}" + (
        f" -n {foreign.where}" if foreign.where else ""
    )
    notes = f"{RELEASE_NAME}={facts.release} {RELEASE_NAMESPACE}={facts.namespace}"
    labels = " ".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    adopt = (f"kubectl annotate {thing} {notes}", f"kubectl label {thing} {labels}")
    if foreign.kind == "Namespace":
        return Remedy("Set sessions.createNamespace=false, or let the release adopt it:", adopt)
    return Remedy("Delete it if it is a leftover, or let the release adopt it:", adopt)


def _check_crds(facts: Facts) -> Iterator[Finding]:
    for loss in losses(facts.snapshot.objects.customresourcedefinitions, read_crds(facts.objects)):
        if loss.stored:
            message = (
                f"{loss.crd}: objects are stored as {', '.join(loss.stored)}, which this chart's"
                " CRD does not have."
            )
            yield _error(
                "crds",
                message,
                "Install a chart that has it; an older chart cannot read the stored objects.",
            )
        else:
            shown = ", ".join(loss.fields[:_SHOWN]) + (" ..." if len(loss.fields) > _SHOWN else "")
            message = (
                f"{loss.crd}: this chart's CRD lacks fields that the cluster's has ({shown}): the"
                " API server would drop them from every object that is written."
            )
            yield _error("crds", message, _NEWER_CHART)


def _installable(facts: Facts) -> Iterator[Finding]:
    if not facts.revisions:
        return
    if facts.revisions[0].status in PENDING:
        yield _pending(facts)
    elif facts.before is not None:
        message = (
            f"The release {facts.release} is already installed in namespace {facts.namespace},"
            f" revision {facts.before.version}."
        )
        yield _error("release", message, "Change it with vdi upgrade.")


def _upgradable(facts: Facts) -> Iterator[Finding]:
    newest = facts.revisions[0] if facts.revisions else None
    if newest is None:
        message = f"There is no release {facts.release} in the namespace {facts.namespace}."
        yield _error(
            "release",
            message,
            "Install it with vdi install, or name its namespace with --namespace.",
        )
    elif newest.status in PENDING:
        yield _pending(facts)
    elif facts.before is None:
        message = (
            f"No revision of {facts.release} is deployed (the newest is {newest.status}:"
            f" {newest.summary})."
        )
        yield _error("release", message, "Try again with vdi install.")
    elif version_numbers(facts.chart.version) < version_numbers(
        facts.before.chart.metadata.version
    ):
        message = (
            f"The chart is {facts.chart.version}, older than the deployed"
            f" {facts.before.chart.metadata.version}."
        )
        yield _warning("release", message, _NEWER_CHART)


def _pending(facts: Facts) -> Finding:
    newest = facts.revisions[0]
    message = (
        f"Revision {newest.version} of {facts.release} is {newest.status} since"
        f" {newest.info.last_deployed}: helm is working on it, or was killed."
    )
    good = last_good(facts.revisions)
    options = options_of(facts.release, facts.place)
    again = (f"vdi uninstall{options}", f"vdi install{options}")
    commands = (rollback_command(facts.release, facts.place, good),) if good else again
    return _error("release", message, Remedy("If no one is working on it:", commands))


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(
        _check_versions,
        _check_nodes,
        _check_placement,
        _check_namespaces,
        _check_session_namespaces,
        _check_rights,
    ),
    *(
        _check_owners,
        _check_crds,
        _check_kinds,
        _check_traefik,
        _check_storage,
        _check_secrets,
        _check_certificate,
    ),
    *(_check_dns, _check_images, _check_dry_run),
)
