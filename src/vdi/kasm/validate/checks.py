"""Whether a Kasm that was installed is whole: what was found in, lines out, from the release to the web UI. Pure."""

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import unreadable_finding
from vdi.kasm.preflight.installed import Installed, find_installed
from vdi.kasm.validate.agents import agent_lines
from vdi.kasm.validate.entry import certificate_line, way_in_line, web_line
from vdi.kasm.validate.facts import Installation, Release
from vdi.kasm.validate.pods import database_line, pods_line, services_line, volumes_line, workload_lines

ADMIN_PASSWORD = "admin-password"  # noqa: S105 - a key of a Secret


def validate(found: Installation) -> list[Finding]:
    """Each line with what is expected and what is seen; where there is no Kasm, that alone."""
    unread = found.missing("deployments", "statefulsets")
    if unread is not None:
        return [unreadable_finding("release", "Kasm Workspaces", unread)]
    installed = find_installed(found, found.namespace)
    if installed is None:
        return [
            Finding(
                code="release",
                severity=Severity.ERROR,
                observed=f"none in namespace {found.namespace}",
                expected="Kasm Workspaces from one of its three charts",
                message="Its proxy, API and manager do not exist.",
                remedy=Remedy("Find it, and pass its namespace with --namespace.", ("helm list --all-namespaces",)),
            )
        ]
    return [
        release_line(found, installed),
        *workload_lines(found, installed),
        pods_line(found, installed),
        services_line(found, installed),
        volumes_line(found, installed),
        database_line(found, installed),
        password_line(found, installed),
        way_in_line(found, installed),
        certificate_line(found, installed),
        web_line(found, installed),
        *agent_lines(found, installed),
    ]


def newest_of(releases: tuple[Release, ...], name: str) -> Release | None:
    """The newest revision of a release."""
    return max(
        (release for release in releases if release.name == name), key=lambda release: release.revision, default=None
    )


def release_line(found: Installation, installed: Installed) -> Finding:
    """Helm's own word on it."""
    expected = "a Helm release, deployed"

    def line(severity: Severity, observed: str, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="release", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if not installed.release:
        message = "It was rendered and applied without Helm: its values are not stored, and helm cannot upgrade it."
        return line(
            Severity.WARNING, installed.words, message, Remedy("Keep the values file; upgrade by rendering again.")
        )
    unread = found.missing("secrets")
    if unread is not None:
        return unreadable_finding("release", expected, unread)
    newest = newest_of(found.releases, installed.release)
    if newest is None:
        message = (
            "Its objects were created by Helm, but Helm's record (a Secret sh.helm.release.v1...) no longer exists."
        )
        remedy = Remedy.run(f"helm list --all --namespace {found.namespace}")
        return line(Severity.WARNING, f"{installed.words}, without Helm's record", message, remedy)
    observed = f"{installed.words}, revision {newest.revision} {newest.status}"
    if newest.status == "deployed":
        return line(Severity.OK, observed)
    at_work = newest.status.startswith("pending")
    message = "Helm is working on it, or was interrupted." if at_work else "The last change failed."
    remedy = Remedy(
        "Go back to a good revision; without a number helm rollback uses the previous one.",
        (
            f"helm history {installed.release} --namespace {found.namespace}",
            f"helm rollback {installed.release} --namespace {found.namespace}",
        ),
    )
    return line(Severity.ERROR, observed, message, remedy)


def password_line(found: Installation, installed: Installed) -> Finding:
    """Where the administrator's password is; what it is, is not looked at."""
    name = secret_name(installed)
    expected = f"key {ADMIN_PASSWORD} in Secret {name}"
    unread = found.missing(f"secrets/{name}")
    if unread is not None:
        return unreadable_finding("admin-password", expected, unread)
    keys = found.secret_keys.get(name)
    if keys is not None and ADMIN_PASSWORD in keys:
        return Finding(code="admin-password", severity=Severity.OK, observed="there", expected=expected)
    observed = "no such Secret" if keys is None else "no such key"
    message = "No one could log in as admin@kasm.local unless the password is stored elsewhere (kasmSecrets.name)."
    remedy = Remedy.run(f"kubectl --namespace {found.namespace} get secret")
    return Finding(
        code="admin-password",
        severity=Severity.WARNING,
        observed=observed,
        expected=expected,
        message=message,
        remedy=remedy,
    )


def secret_name(installed: Installed) -> str:
    """Of the Secret with the passwords."""
    return installed.generation.secrets.format(release=installed.release or "kasm")
