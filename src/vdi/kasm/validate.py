"""Whether a Kasm that was installed is whole: what was found in, lines out, from the release to the web UI. Pure."""

from vdi.kasm.preflight_line import Line, Verdict, unread_line
from vdi.kasm.preflight_release import Installed, find_installed
from vdi.kasm.validate_agents import agent_lines
from vdi.kasm.validate_entry import certificate_line, way_in_line, web_line
from vdi.kasm.validate_facts import Installation, Release
from vdi.kasm.validate_pods import database_line, pods_line, services_line, volumes_line, workload_lines

ADMIN_PASSWORD = "admin-password"  # noqa: S105 - a key of a Secret


def validate(found: Installation) -> list[Line]:
    """Each line with what is expected and what is seen; where there is no Kasm, that alone."""
    unread = found.missing("deployments", "statefulsets")
    if unread is not None:
        return [unread_line("release", "Kasm Workspaces", unread)]
    installed = find_installed(found, found.namespace)
    if installed is None:
        return [
            Line(
                check="release",
                verdict=Verdict.FAIL,
                seen=f"none in namespace {found.namespace}",
                wanted="Kasm Workspaces, of any of its three charts",
                why="Its proxy, API and manager are not there.",
                remedy="helm list --all-namespaces; then vdi kasm validate --namespace NAMESPACE",
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
    return max((one for one in releases if one.name == name), key=lambda one: one.revision, default=None)


def release_line(found: Installation, installed: Installed) -> Line:
    """Helm's own word on it."""
    wanted = "a Helm release, deployed"

    def line(verdict: Verdict, seen: str, why: str = "", remedy: str = "") -> Line:
        return Line(check="release", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    if not installed.release:
        why = "It was rendered and applied without Helm: nothing keeps its values, and helm cannot upgrade it."
        return line(Verdict.WARN, installed.words, why, "keep the values file; upgrade by rendering again")
    unread = found.missing("secrets")
    if unread is not None:
        return unread_line("release", wanted, unread)
    newest = newest_of(found.releases, installed.release)
    if newest is None:
        why = "Its objects say that Helm made them, but Helm's record (a Secret sh.helm.release.v1...) is gone."
        remedy = f"helm list --all --namespace {found.namespace}"
        return line(Verdict.WARN, f"{installed.words}, without Helm's record", why, remedy)
    seen = f"{installed.words}, revision {newest.revision} {newest.status}"
    if newest.status == "deployed":
        return line(Verdict.PASS, seen)
    at_work = newest.status.startswith("pending")
    why = "Helm works on it, or was stopped while it did." if at_work else "The last change did not go through."
    remedy = (
        f"helm history {installed.release} --namespace {found.namespace}; helm rollback {installed.release} REVISION"
    )
    return line(Verdict.FAIL, seen, why, f"{remedy} --namespace {found.namespace}")


def password_line(found: Installation, installed: Installed) -> Line:
    """Where the administrator's password is; what it is, is not looked at."""
    name = secret_name(installed)
    wanted = f"key {ADMIN_PASSWORD} in Secret {name}"
    unread = found.missing(f"secrets/{name}")
    if unread is not None:
        return unread_line("admin-password", wanted, unread)
    keys = found.secret_keys.get(name)
    if keys is not None and ADMIN_PASSWORD in keys:
        return Line(check="admin-password", verdict=Verdict.PASS, seen="there", wanted=wanted)
    seen = "no such Secret" if keys is None else "no such key"
    why = "Nobody could log in as admin@kasm.local unless the password is kept elsewhere (kasmSecrets.name)."
    remedy = f"kubectl --namespace {found.namespace} get secret"
    return Line(check="admin-password", verdict=Verdict.WARN, seen=seen, wanted=wanted, why=why, remedy=remedy)


def secret_name(installed: Installed) -> str:
    """Of the Secret with the passwords."""
    return installed.generation.secrets.format(release=installed.release or "kasm")
