"""`vdi uninstall`: ends the desktops, removes the release, keeps the homes unless --delete-homes is
given.

The order of the removal and its waits are in `vdi.release.remove`.
"""

from typing import Annotated, Any

import typer

from vdi.cli.errors import CliError
from vdi.cli.helm_options import ReleaseOptions, with_release
from vdi.cli.install import confirm_change, failures_in_words, revision_data
from vdi.cli.options import DryRun, Yes, examples, new_app
from vdi.cli.output import Output, print_lines, print_object
from vdi.cli.progress import ProgressView
from vdi.kube.transport import Client
from vdi.operator.release_keys import HOST_KEY
from vdi.release.apply import HelmRun
from vdi.release.remove import (
    Removal,
    count,
    delete_crds,
    delete_homes,
    end_sessions,
    is_owned,
    left_sessions,
    no_operator,
    plan_removal,
    uninstall_release,
)
from vdi.session.homes import HomeSummary
from vdi.session.naming import HOST

_WHY = "so that no address goes to another user after the next installation"
app = new_app()


@app.command(
    epilog=examples(
        "uninstall --dry-run", "uninstall", "uninstall --delete-homes --crds", "uninstall --force"
    )
)
@with_release
def uninstall(
    at: ReleaseOptions,
    *,
    delete_homes: Annotated[
        bool,
        typer.Option("--delete-homes", help="Also delete all homes with the files of all users."),
    ] = False,
    crds: Annotated[
        bool,
        typer.Option("--crds", help="Also delete the CRDs, and with them all templates and pools."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove finalizers if no operator is running to remove them."),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """End all desktops while the operator is running, remove operator and gateway, and list what is
    kept.

    Homes are kept, and a later installation uses them again. The command asks before it removes
    anything, and again before it deletes homes. Status 1: refused or failed; 130: interrupted.
    """
    with failures_in_words():
        at = at.located()
        plan = at.connection.run(
            lambda client: plan_removal(client, at.release, at.place.namespace)
        )
        doomed = plan.homes if delete_homes else plan.lost_homes
        if at.output is Output.TABLE:
            print_lines(plan_lines(plan, doomed, crds=crds))
        refuse_unsafe(plan, crds=crds, force=force)
        if not dry_run:
            confirm_change("Uninstall?", yes)
            if doomed:
                confirm_change(
                    f"Delete {count(doomed, 'home')} with all files? This cannot be undone.", yes
                )
            at.connection.run(
                lambda client: _apply(client, at, plan, homes=delete_homes, crds=crds, force=force)
            )
    stays = staying(plan, doomed, crds=crds)
    lines = ["\nWhat stays:" if stays else "\nNothing stays.", *(f"  {line}" for line in stays)]
    print_object(
        {**_data(plan), "removed": not dry_run, "stays": stays}, Output(at.output), lambda: lines
    )


def refuse_unsafe(plan: Removal, *, crds: bool, force: bool) -> None:
    """Raise CliError for what would harm sessions or other releases."""
    if plan.revision is None and not (plan.sessions or plan.homes or plan.crds):
        raise CliError(
            f"there is no release {plan.release} in the namespace {plan.namespace}, and no object"
            " of it"
        )
    if plan.revision is None and plan.operators:
        there = ", ".join(operator.object for operator in plan.operators)
        raise CliError(
            f"there is no release {plan.release} in the namespace {plan.namespace}, but {there} is"
            " running; to remove its release, name it with --release and --namespace"
        )
    if plan.sessions and not plan.operator_works and not force:
        raise CliError(no_operator(plan))
    if crds and plan.elsewhere:
        reason = (
            f"--crds would delete {plan.elsewhere} sessions in other namespaces, which another"
            " operator looks after"
        )
        raise CliError(f"{reason}; allowed once they no longer exist")
    if crds and plan.other_operators:
        reason = (
            "--crds would delete the kinds, templates and pools of"
            f" {', '.join(plan.other_operators)}"
        )
        raise CliError(f"{reason}; allowed when no other release exists, or without --crds")


async def _apply(
    client: Client, at: ReleaseOptions, plan: Removal, *, homes: bool, crds: bool, force: bool
) -> None:
    with ProgressView() as view:
        run = HelmRun(client, at.helm, view, at.seconds)
        await end_sessions(run, plan, force=force)
        # The operator goes after its sessions: no one else removes their finalizers.
        if plan.revision is not None:
            await uninstall_release(run, plan, at.place)
        # Someone may have started a session since `end_sessions`; without an operator its finalizer
        # stays.
        if late := await left_sessions(client, plan.sessions_namespaces):
            again = "run the same command again with --force"
            raise CliError(
                f"started during this command, and now without an operator: {', '.join(late)};"
                f" {again}"
            )
        kept = [home for home in plan.homes if not is_owned(home)]
        if homes and kept:
            await delete_homes(run, kept)
        if crds and plan.crds:
            await delete_crds(run, plan.crds)


def plan_lines(plan: Removal, doomed: tuple[HomeSummary, ...], *, crds: bool) -> list[str]:
    """Objects that would be removed, for people."""
    if plan.revision:
        state = f"revision {plan.revision.version}, {plan.revision.status}"
        lines = [f"Release {plan.release} in {plan.namespace}: {state}"]
    else:
        lines = [
            f"There is no release {plan.release} in {plan.namespace}; its remaining objects are"
            " removed."
        ]
    lines += [
        f"Session {session.metadata.name} of {session.spec.user}: will be ended"
        for session in plan.sessions
    ]
    lines += [f"Pool {pool}: its desktops will be ended" for pool in plan.pools]
    if not plan.operator_works and plan.sessions:
        lines.append(
            "No operator is running: the sessions' finalizers are removed, and Kubernetes deletes"
            " what they own."
        )
    if doomed:
        lines += [
            "Homes that are DELETED, with all files in them:",
            *(f"  {_describe(home)}" for home in doomed),
        ]
    if crds:
        lines.append(
            f"CRDs: {', '.join(plan.crds) or 'none exist'}; with them all templates and pools are"
            " deleted"
        )
    return lines


def _describe(home: HomeSummary) -> str:
    of = "all templates with scope User"
    if home.template:
        of = f"template {home.template}"
    return f"{home.user or '(unknown)'}: {home.size or '?'} of {of} ({home.name})"


def staying(plan: Removal, doomed: tuple[HomeSummary, ...], *, crds: bool) -> list[str]:
    """Objects that are on the cluster afterwards, each with the command that removes it."""
    homes = [home for home in plan.homes if home not in doomed]
    lines = [f"home of {_describe(home)}, used again by the next installation" for home in homes]
    if plan.crds and not crds:
        lines.append(f"CRDs {', '.join(plan.crds)}: vdi uninstall --crds")
        lines += [
            f"template {template}: kubectl delete vditemplate {template}"
            for template in plan.templates
        ]
    if plan.reservations:
        names = ", ".join(plan.reservations[:5]) + (", ..." if len(plan.reservations) > 5 else "")
        what = (
            f"{count(plan.reservations, 'configmap')} vdi-host-NAME, the first users of the host"
            f" names {names}"
        )
        lines.append(
            f"{what}, {_WHY}: kubectl -n {plan.sessions_namespaces[0]} delete configmap -l {HOST}"
        )
    for kept_object in plan.kept:
        inside = [home for home in homes if kept_object == f"namespace/{home.namespace}"]
        holds = f", with {count(inside, 'home')} in it" if inside else ""
        if kept_object.startswith(f"secret/{HOST_KEY} "):
            holds = f", the key of the desktops' addresses, {_WHY}"
        lines.append(f"{kept_object}{holds}: kubectl delete {kept_object}")
    for volume in plan.volumes:
        lines.append(
            f"{volume}, which opens only with the password in its Secret: kubectl delete {volume}"
        )
    if plan.revision is not None:
        lines.append(
            f"namespace/{plan.namespace}, with what is listed in it: kubectl delete"
            f" namespace/{plan.namespace}"
        )
    return lines


def _data(plan: Removal) -> dict[str, Any]:
    homes = [
        {
            "user": home.user,
            "template": home.template,
            "claim": home.name,
            "size": home.size,
            "ownedBySession": is_owned(home),
        }
        for home in plan.homes
    ]
    return {
        "revision": revision_data(plan.revision),
        "sessions": [session.metadata.name for session in plan.sessions],
        "pools": list(plan.pools),
        "homes": homes,
    }
