"""`vdi home`: the volumes with users' files, for administrators of the cluster: ls, show, rm,
export and import.

The work of export and import is in `vdi.home_copy`.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import msgspec
import typer

from vdi.api.meta import ObjectMeta
from vdi.api.session import SessionPersistence, SessionSpec, VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import (
    PROGRAM,
    KubeConnection,
    KubectlPath,
    examples,
    new_app,
    of_kind,
    with_connection,
)
from vdi.cli.output import (
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    Raw,
    age,
    columns,
    fact_lines,
    now_utc,
    print_object,
    print_objects,
)
from vdi.cli.progress import ProgressView
from vdi.cli.terminal import confirm, end_on_interrupt
from vdi.cluster.objects import PersistentVolumeClaim
from vdi.cluster.units import parse_quantity
from vdi.home_copy.archive import Copied, export_home, import_home
from vdi.home_copy.pod import CopyFailedError, CopyRefusedError, CopyRun, choose_template
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import NotFound, Replaced
from vdi.kube.resource import CLAIMS
from vdi.kube.transport import Client
from vdi.new_file import NewFileError, new_file
from vdi.session.homes import (
    Home,
    HomeClaim,
    HomeSummary,
    resolve_home,
    summarize_homes,
    why_not_deleted,
)
from vdi.session.naming import MANAGED_BY, Identity
from vdi.session.users import check_address

T = TypeVar("T")
app = new_app()

_STREAM = "-"
_MIB = 1 << 20
# Without a terminal each line stays: one for each GiB.
_SHOWN_BYTES = 1 << 30
_UNITS = (("GiB", 1 << 30), ("MiB", _MIB))
_LABELS = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())

Image = Annotated[
    str | None,
    typer.Option(
        "--image", help="Image with GNU tar for the pod; default: the image of the home's template."
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        help="Name of the home (its PersistentVolumeClaim).",
        callback=of_kind("persistentvolumeclaim"),
    ),
]


@app.command("ls", epilog=examples("home ls", "home ls --user alice@example.com -o wide"))
@with_connection
def list_(
    connection: KubeConnection,
    user: Annotated[str | None, typer.Option("--user", help="Only homes of this user.")] = None,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List the homes: owner, size, the desktop that uses each, and last use."""
    homes, _ = connection.run(lambda client: read_homes(client, connection.namespace))
    shown = [msgspec.to_builtins(home) for home in homes if user is None or home.user == user]
    name, empty = (
        (lambda raw: f"persistentvolumeclaim/{raw['name']}"),
        f"no homes{f' of {user}' if user else ''}",
    )
    print_objects(
        shown,
        output,
        name=name,
        table=home_table,
        empty=f"{empty} in namespace {connection.namespace}",
    )


@app.command(
    epilog=examples(
        "home show home-alice-cad-7sm2vbl3pgql", "home show home-alice-7qcryou77eog -o json"
    )
)
@with_connection
def show(
    connection: KubeConnection,
    name: Name,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one home: owner, size, the sessions that use it, and last use."""
    homes, _ = connection.run(lambda client: read_homes(client, connection.namespace))
    home = find_home(homes, name, connection)
    print_object(msgspec.to_builtins(home), output, lambda: home_lines(home))


@app.command(
    epilog=examples(
        "home rm home-alice-cad-7sm2vbl3pgql", "home rm home-alice-7qcryou77eog --yes -o json"
    )
)
@with_connection
def rm(
    connection: KubeConnection,
    names: Annotated[
        list[str],
        typer.Argument(help="Names of the homes.", callback=of_kind("persistentvolumeclaim")),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Don't ask before files are deleted.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete homes with all files in them. A home that a session uses is not deleted: end the
    session first.
    """
    homes, sessions = connection.run(lambda client: read_homes(client, connection.namespace))
    chosen = [find_home(homes, name, connection) for name in dict.fromkeys(names)]
    if refused := [why for home in chosen if (why := why_not_deleted(home, sessions))]:
        raise CliError("\n".join([*refused, "Nothing was deleted."]))
    if not yes:
        lines = [
            f"  {home.name}: {home.size or '?'} of {home.user or 'an unknown user'}"
            for home in chosen
        ]
        typer.echo("This deletes all files in these homes:\n" + "\n".join(lines), err=True)
        if not confirm("Delete them?", untouched="nothing was deleted"):
            raise CliError("nothing was deleted")
    connection.run(lambda client: _delete(client, connection.namespace, chosen))
    deleted = [home.name for home in chosen]
    print_object(
        {"deleted": deleted}, output, lambda: [f"home {name} is being deleted" for name in deleted]
    )


async def read_homes(client: Client, namespace: str) -> tuple[list[HomeSummary], list[VDISession]]:
    """All homes and sessions of a namespace. Raises KubeError."""
    claims = await client.list(CLAIMS, namespace=namespace, label_selector=_LABELS, into=HomeClaim)
    sessions = await client.list(SESSIONS, namespace=namespace, into=VDISession)
    return summarize_homes(claims, sessions), sessions


def find_home(homes: Sequence[HomeSummary], name: str, connection: KubeConnection) -> HomeSummary:
    """The home of this name. Raises CliError, which names the command that lists homes."""
    for home in homes:
        if home.name == name:
            return home
    listing = f"{PROGRAM} home ls{connection.flags}"
    raise CliError(
        f"there is no home {name} in namespace {connection.namespace}; to list all: {listing}"
    )


async def _delete(client: Client, namespace: str, homes: Sequence[HomeSummary]) -> None:
    for home in homes:
        try:
            await client.delete(
                CLAIMS, home.name, namespace=namespace, uid=home.uid, into=msgspec.Raw
            )
        except (NotFound, Replaced):
            continue


def home_table(items: Sequence[Raw], wide: bool) -> list[str]:
    """The lines of `ls`."""
    rows = []
    for home in (msgspec.convert(raw, HomeSummary) for raw in items):
        used = ", ".join(home.used_by) or "-"
        whose = [home.name, home.user or "-", home.scope, home.template or "-"]
        row = [*whose, home.size or "-", used, _last_used(home)]
        rows.append([*row, home.access_mode, home.storage_class, home.phase] if wide else row)
    more = ["ACCESS MODE", "STORAGE CLASS", "PHASE"] if wide else []
    return columns(
        ["NAME", "USER", "SCOPE", "TEMPLATE", "SIZE", "USED BY", "LAST USED", *more], rows
    )


def home_lines(home: HomeSummary) -> list[str]:
    """The lines of `show`."""
    facts = {
        "Home": home.name,
        "User": home.user,
        "Scope": home.scope,
        "Template": home.template,
        "Size": home.size,
        "Volume": (
            f"{home.phase or 'Unknown'}, {home.access_mode}, class"
            f" {home.storage_class or '(default)'}"
        ),
        "Used by": ", ".join(home.used_by) or "no desktop",
        "Sessions": ", ".join(home.sessions),
        "Copied by": home.copying,
        "Last used": "" if home.used_by else _last_used(home),
        "Created": f"{home.created} ({age(home.created, now_utc())} ago)",
        "Deleted": f"since {home.deleted}" if home.deleted else "",
    }
    return fact_lines(facts)


def _last_used(home: HomeSummary) -> str:
    if home.used_by:
        return "now"
    if home.last_used:
        return f"{age(home.last_used, now_utc())} ago"
    return "-"


@app.command(
    epilog=examples(
        "home export home-alice-cad-7sm2vbl3pgql alice.tar.gz",
        "home export home-alice-cad-7sm2vbl3pgql - | age -r age1... > alice.tar.gz.age",
    )
)
@with_connection
def export(
    connection: KubeConnection,
    name: Name,
    file: Annotated[
        str, typer.Argument(help="New file (mode 0600) for the tar.gz; `-` is stdout.")
    ],
    *,
    image: Image = None,
    kubectl: KubectlPath = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write a home to a tar.gz file. The desktop may run; for a consistent copy, suspend it first.

    A pod without privileges packs the files; it is removed at the end, also after Ctrl-C. With `-`
    the report goes to stderr. Status 1: no archive was written; 130: interrupted.
    """
    command = connection.kubectl(kubectl)

    async def work(run: CopyRun, sink: BinaryIO) -> tuple[str, Copied]:
        homes, _ = await read_homes(run.client, connection.namespace)
        home = find_home(homes, name, connection)
        if home.deleted:
            raise CliError(f"the home {name} has been terminating since {home.deleted}")
        templates = await run.client.list(TEMPLATES, into=VDITemplate)
        template = choose_template(home.template, templates, name, has_image=image is not None)
        return home.user, await export_home(run, name, template, sink, image=image)

    with _sink(file) as sink:
        user, copied = _copy(connection, command, lambda run: work(run, sink), "No file was kept.")
    report = {"home": name, "user": user, "file": file, **_report(copied)}
    lines = _lines(copied, f"{name} of {user}: {_size_in_words(copied.archive_bytes)} in {file}")
    if file == _STREAM:
        typer.echo(
            "\n".join(lines) if output is Output.TABLE else msgspec.json.encode(report).decode(),
            err=True,
        )
    else:
        print_object(report, output, lambda: lines)


@app.command(
    "import",
    epilog=examples(
        "home import alice.tar.gz --user alice@example.com --template cad",
        "home import - --user alice@example.com --template cad --size 50Gi -o json < alice.tar.gz",
    ),
)
@with_connection
def import_(
    connection: KubeConnection,
    file: Annotated[str, typer.Argument(help="A tar archive, plain or tar.gz; `-` is stdin.")],
    *,
    user: Annotated[str, typer.Option("--user", help="Owner of the new home (e-mail address).")],
    template: Annotated[
        str,
        typer.Option(
            "--template", "-t", help="Template whose desktops use it, by the template's scope."
        ),
    ],
    size: Annotated[
        str | None, typer.Option("--size", help="Size of the home; default: the template's value.")
    ] = None,
    image: Image = None,
    kubectl: KubectlPath = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a home from an archive; the next desktop of this user and template starts with it.

    An existing home is never changed. No desktop starts on the new home before it is complete;
    after an error or Ctrl-C no home is left. Status 1: nothing was imported; 130: interrupted.
    """
    try:
        user = check_address(user)
    except ValueError as error:
        raise CliError(f"--user: {error}", USAGE) from error
    if size is not None:
        _check_size(size)
    command = connection.kubectl(kubectl)

    async def work(run: CopyRun, source: BinaryIO) -> tuple[str, Copied]:
        offered = {
            offer.metadata.name: offer
            for offer in await run.client.list(TEMPLATES, into=VDITemplate)
        }
        if template not in offered:
            raise CliError(
                f"--template {template}: there is no such template; allowed:"
                f" {', '.join(sorted(offered))}",
                USAGE,
            )
        home = await _next_home(run.client, connection.namespace, user, offered[template], size)
        identity = Identity(connection.namespace, name="", uid="", user=user, template=template)
        return home.claim, await import_home(
            run, identity, home, offered[template], source, image=image
        )

    with _source(file) as source:
        name, copied = _copy(
            connection, command, lambda run: work(run, source), "No home was created."
        )
    report = {"home": name, "user": user, "template": template, "file": file, **_report(copied)}
    imported = f"{name} of {user}: {_size_in_words(copied.content_bytes)} imported"
    print_object(report, output, lambda: _lines(copied, imported))


def _lines(copied: Copied, done: str) -> list[str]:
    return [*(f"Warning: {warning}" for warning in copied.warnings), done]


def _check_size(size: str) -> None:
    try:
        valid = parse_quantity(size) > 0
    except ValueError as error:
        raise CliError(f"--size: {error}", USAGE) from error
    if not valid:
        raise CliError(f"--size {size}: allowed: quantities above zero, such as 20Gi", USAGE)


async def _next_home(
    client: Client, namespace: str, user: str, template: VDITemplate, size: str | None
) -> Home:
    """The home that a new session of this user and template would have. Raises CliError where that
    has none to keep.
    """
    claims = await client.list(
        CLAIMS, namespace=namespace, label_selector=_LABELS, into=PersistentVolumeClaim
    )
    session = VDISession(
        metadata=ObjectMeta(name="import", namespace=namespace),
        spec=SessionSpec(
            user=user,
            template=template.metadata.name,
            persistence=SessionPersistence(size=size) if size else None,
        ),
    )
    home = resolve_home(session, template, {claim.metadata.name: claim for claim in claims})
    if home is None or not home.retain:
        why = "persistence.enabled: false"
        if home:
            why = f"persistence.scope: {template.spec.persistence.scope.value}"
        raise CliError(
            f"--template {template.metadata.name}: its desktops have no home that stays ({why})",
            USAGE,
        )
    return home


def _copy(
    connection: KubeConnection,
    kubectl: list[str],
    work: Callable[[CopyRun], Awaitable[T]],
    kept: str,
) -> T:
    """Do the work with its progress shown. Raises CliError, which ends with `kept`: what is left of
    the copy.
    """
    with ProgressView() as view:
        step, shown = (_MIB if sys.stderr.isatty() else _SHOWN_BYTES), 0

        def moved(count: int) -> None:
            nonlocal shown
            if count // step != shown:
                shown = count // step
                view.waiting(f"{_size_in_words(count)} copied")

        async def run(client: Client) -> T:
            namespace, flags = connection.namespace, connection.flags
            return await work(
                CopyRun(client, SYSTEM_CLOCK, kubectl, namespace, view.waiting, moved, flags)
            )

        try:
            with end_on_interrupt(f"Interrupted; the pod is removed. {kept}"):
                return connection.run(run)
        except CopyRefusedError as error:
            raise CliError(str(error)) from error
        except CopyFailedError as error:
            raise CliError(f"{error}. {kept}") from error
        except OSError as error:
            raise CliError(
                f"{error.filename or 'the archive'}: {error.strerror}. {kept}"
            ) from error


@contextmanager
def _sink(file: str) -> Iterator[FileIO]:
    """The stream for the archive. A file takes its name only at the end; after an error nothing is
    left.
    """
    if file == _STREAM:
        if sys.stdout.isatty():
            raise CliError(
                "an archive cannot be written to a terminal: name a file, or pipe stdout to a"
                " program",
                USAGE,
            )
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
            yield stream
        return
    path = Path(file)
    if path.exists():
        raise CliError(f"{file} already exists; name another file", USAGE)
    if not path.parent.is_dir():
        raise CliError(
            f"the folder {path.parent} does not exist; name a file in an existing folder", USAGE
        )
    try:
        with new_file(path) as stream:
            yield stream
    except NewFileError as error:
        raise CliError(f"{error}; name another file") from error


@contextmanager
def _source(file: str) -> Iterator[FileIO]:
    if file == _STREAM:
        if sys.stdin.isatty():
            raise CliError(
                "stdin is a terminal: name a file, or pipe an archive to this command", USAGE
            )
    elif not Path(file).is_file():
        raise CliError(f"{file}: this file does not exist", USAGE)
    # Without a buffer: a thread that still reads a pipe would hold its lock, and the program could
    # not end.
    opened = sys.stdin.fileno() if file == _STREAM else file
    with open(opened, "rb", buffering=0, closefd=file != _STREAM) as stream:
        yield stream


def _size_in_words(count: int) -> str:
    """`4.6 GiB`, `12.0 MiB`, `3 KiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{max(1, count >> 10)} KiB"


def _report(copied: Copied) -> dict[str, object]:
    return {
        "archiveBytes": copied.archive_bytes,
        "contentBytes": copied.content_bytes,
        "warnings": list(copied.warnings),
    }
