"""All checks over one snapshot, and the order of their findings: causes first, consequences folded
under them. Pure.

Called by `vdi doctor`, the gateway's doctor page, `vdi kasm diagnose` and `vdi template try`. A new
module of checks joins `CHECKS`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from vdi.doctor.checks import (
    cluster,
    control_plane,
    data_plane,
    desktops,
    infrastructure,
    request_path,
    sessions,
    unexplained,
)
from vdi.doctor.codes import CODES, make_finding
from vdi.doctor.codes.control_plane import RELEASE_DIFFERS
from vdi.doctor.objects.components import Operator, find_operators
from vdi.doctor.objects.sessions import active_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.diagnosis import chains as kasm_checks
from vdi.snapshot.check import Check
from vdi.snapshot.model import Snapshot

CHECKS: tuple[Check, ...] = (
    *control_plane.CHECKS,
    *sessions.CHECKS,
    *infrastructure.CHECKS,
    *cluster.CHECKS,
    *request_path.CHECKS,
    *data_plane.CHECKS,
    *desktops.CHECKS,
    *kasm_checks.CHECKS,
    # The last: it explains nothing that another check has explained.
    *unexplained.CHECKS,
)
# Without the comparison with Helm's records, which hold a release's values: only an administrator
# may read them, neither the gateway nor the CronJob.
UNPRIVILEGED = tuple(check for check in CHECKS if "secrets@release" not in check.needs)
_SEVERITIES = tuple(Severity)
# Codes of what an operator does for each desktop; of the first it does it again at its start.
_AT_ITS_START = ("route_missing", "service_missing", "service_without_endpoints", "session_overdue")
_OF_OPERATOR = (
    *_AT_ITS_START,
    "middleware_missing",
    "servers_transport_missing",
    "route_entry_point_unknown",
)
_SEVERAL = 2
# More than any number of sessions: a cause that is about no session in particular.
_EVERYONE = 1_000_000
# Objects on which all sessions depend, whatever else their findings are related to.
_SHARED = (
    "node/",
    "deployment/",
    "daemonset/",
    "statefulset/",
    "lease/",
    "namespace/",
    "networkpolicy/",
    "secret/",
)
_PLACES = {code: place for place, code in enumerate(CODES)}


def run_checks(snapshot: Snapshot, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """All findings of these checks, ranked. A check whose kinds could not be read is reported as
    not run.
    """
    findings: dict[str, Finding] = {}
    for check in checks:
        if not check.needs & snapshot.unreadable_kinds:
            for finding in _run(check, snapshot, list(findings.values())):
                findings.setdefault(finding.key, finding)
    return rank([*_gather(snapshot, list(findings.values())), *_not_run(snapshot, checks)])


def _gather(snapshot: Snapshot, findings: list[Finding]) -> list[Finding]:
    """The findings, with one about the operator in place of the same one about each desktop that it
    serves.
    """
    for operator in find_operators(snapshot):
        served = set()
        for diagnosis in active_sessions(snapshot):
            if diagnosis.operator == operator and diagnosis.pod and diagnosis.pod.ready:
                served.add(diagnosis.object)
        for code in _OF_OPERATOR:
            alike, sessions = [], set()
            for finding in findings:
                if finding.code == code and served & _sessions_of(finding):
                    alike.append(finding)
                    sessions |= _sessions_of(finding)
            if len(alike) >= _SEVERAL and sessions >= served:
                others = [finding for finding in findings if finding not in alike]
                findings = [_of_operator(operator, alike, len(served)), *others]
    return findings


def _of_operator(operator: Operator, alike: list[Finding], served: int) -> Finding:
    first = alike[0]
    commands = first.remedy.commands
    if first.code in _AT_ITS_START:
        deployment = f"deployment/{operator.name}"
        commands = tuple(
            f"{operator.kubectl} {verb} {deployment}" for verb in ("logs", "rollout restart")
        )
    return make_finding(
        first.code,
        operator.object,
        f"All {served} desktops have the same fault. The first: {first.message}",
        evidence=[f"{finding.object}: {finding.evidence[0]}" for finding in alike[:_SEVERAL]],
        remedy=Remedy.run(*commands),
        related_objects={name for finding in alike for name in finding.related_objects},
    )


def _run(check: Check, snapshot: Snapshot, findings: list[Finding]) -> Iterator[Finding]:
    # One check that meets an object of an unknown shape must not hide what the others find.
    try:
        yield from check.run(snapshot, findings) if check.last else check.run(snapshot)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        yield make_finding(
            "check_failed",
            f"check/{check.name}",
            f"The check {check.name} failed, so its result is unknown: {problem}",
            evidence=[problem],
            remedy=Remedy(
                "Report this bug of vdi doctor, with this bundle.",
                ("vdi doctor --bundle doctor.json",),
            ),
        )


def _not_run(snapshot: Snapshot, checks: tuple[Check, ...]) -> Iterator[Finding]:
    for unread in snapshot.unread:
        skipped = [check.name for check in checks if unread.kind in check.needs]
        lost = f" Not checked: {', '.join(skipped)}." if skipped else ""
        yield make_finding(
            "not_readable",
            f"kind/{unread.kind}",
            unread.words + lost,
            evidence=[unread.words],
            remedy=unread.remedy,
        )


def rank(findings: list[Finding]) -> list[Finding]:
    """Findings with `caused_by` set, each cause before its consequences.

    Causes are ordered by the worst severity among them and their consequences, then by who is hurt:
    the cluster or a release, many sessions, one session. Then by the number of findings that they
    explain, and by layer.
    """
    by_code: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_code[finding.code].append(finding)
    keys = {finding.key for finding in findings}
    # Checks of Kasm name the cause themselves: codes alone cannot say which of two pods waits for
    # the other.
    consequences: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.caused_by in keys:
            linked = finding
        else:
            linked = _link(finding, by_code)
        consequences[linked.caused_by].append(linked)

    # Sessions of one template that have the same finding have one cause.
    alike = Counter((finding.code, _template_of(finding)) for finding in findings)

    def explained(finding: Finding) -> Iterator[Finding]:
        """The finding, and all that follows from it."""
        yield finding
        for consequence in consequences.get(finding.key, ()):
            yield from explained(consequence)

    def order(finding: Finding) -> tuple[int, int, int, int, str, str]:
        family = list(explained(finding))
        severity = min(_SEVERITIES.index(one.severity) for one in family)
        sessions = {name for one in family for name in _sessions_of(one)}
        if sessions:
            hurt = max(len(sessions), alike[finding.code, _template_of(finding)])
        else:
            hurt = _EVERYONE
        return severity, -hurt, -len(family), _PLACES[finding.code], finding.object, finding.code

    def flatten(cause: str) -> Iterator[Finding]:
        for finding in sorted(consequences.get(cause, ()), key=order):
            yield finding
            yield from flatten(finding.key)

    return list(flatten(""))


def _template_of(finding: Finding) -> str:
    return next(
        (name for name in finding.related_objects if name.startswith("vditemplate/")),
        finding.object,
    )


def _sessions_of(finding: Finding) -> set[str]:
    """The sessions that it is about; empty: it is about the cluster or a release."""
    near = (finding.object, *finding.related_objects)
    if finding.object.startswith(_SHARED):
        return set()
    return {name for name in near if name.startswith("vdisession/")}


def _link(finding: Finding, by_code: Mapping[str, list[Finding]]) -> Finding:
    """The finding with its cause: the first code in `follows` that was found at an object it
    depends on.
    """
    near = {finding.object, *finding.related_objects}
    follows = CODES[finding.code].follows
    for code in (RELEASE_DIFFERS, *follows):
        for cause in by_code.get(code, ()):
            if code in follows:
                spread = CODES[code].spreads and not near.isdisjoint(cause.related_objects)
                is_cause = CODES[code].cluster_wide or cause.object in near or spread
            else:
                # Whatever is wrong with an object, it is not as Helm installed it.
                is_cause = cause.object == finding.object and finding.code != RELEASE_DIFFERS
            if is_cause and cause.key != finding.key:
                return msgspec.structs.replace(finding, caused_by=cause.key)
    return finding
