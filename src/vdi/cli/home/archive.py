"""`vdi home export` and `import`: a home as a tar archive. The work is in `vdi.home_copy`."""

import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypeVar

import msgspec
import typer

from vdi.api.meta import ObjectMeta
from vdi.api.session import SessionPersistence, SessionSpec, VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import USAGE, CliError
from vdi.cli.home.homes import find_home, read_homes
from vdi.cli.kubectl import find_kubectl
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.options import KubeConnection, examples, of_kind, with_connection
from vdi.cli.output import PageOption, PageOutput, print_data
from vdi.cli.progress import ProgressView
from vdi.home_copy.archive import Copied, export_home, import_home
from vdi.home_copy.pod import CopyFailedError, CopyRefusedError, CopyRun, choose_template
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.resource import CLAIMS
from vdi.new_file import NewFileError, new_file
from vdi.operator.kinds import TEMPLATES
from vdi.session.homes import Home, resolve_home
from vdi.session.identity import MANAGED_BY, Identity
from vdi.session.observed import PersistentVolumeClaim
from vdi.session.units import parse_quantity

if TYPE_CHECKING:
    from vdi.kube.transport import Client

T = TypeVar("T")
app = typer.Typer(rich_markup_mode=None)

_STREAM = "-"
_MIB = 1 << 20
_SHOWN_BYTES = 1 << 30
"""Without a terminal each line stays: one for each GiB."""
_UNITS = (("GiB", 1 << 30), ("MiB", _MIB))
_USER = re.compile(r"\S+@\S+\.\S+")

Image = Annotated[
    str | None,
    typer.Option("--image", help=("Image with GNU tar for the pod; default: the image of the home's template.")),
]
Name = Annotated[
    str, typer.Argument(help="Name of the home (its PersistentVolumeClaim).", callback=of_kind("persistentvolumeclaim"))
]
Kubectl = Annotated[Path | None, typer.Option("--kubectl", metavar="PATH", help="kubectl; default: the one in PATH.")]


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
    file: Annotated[str, typer.Argument(help="New file (mode 0600) for the tar.gz; `-` is stdout.")],
    *,
    image: Image = None,
    kubectl: Kubectl = None,
    output: PageOption = PageOutput.TABLE,
) -> None:
    """Write a home to a tar.gz file. The desktop may run; for a consistent copy, suspend it first.

    A pod without privileges packs the files; it is removed at the end, also after Ctrl-C. With `-` the report goes
    to stderr. Status 1: no archive was written; 130: interrupted.
    """
    command = find_kubectl(kubectl, connection.kubeconfig, connection.context)

    async def work(client: "Client", sink: BinaryIO, run: CopyRun) -> tuple[str, Copied]:
        homes, _ = await read_homes(client, connection.namespace)
        home = find_home(homes, name, connection)
        if home.deleted:
            raise CliError(f"the home {name} has been terminating since {home.deleted}")
        templates = await client.list(TEMPLATES, into=VDITemplate)
        template = choose_template(home.template, templates, name, has_image=image is not None)
        return home.user, await export_home(run, name, template, sink, image=image)

    with _sink(file) as sink:
        user, copied = _copy(connection, command, lambda client, run: work(client, sink, run), "No file was kept.")
    report = {"home": name, "user": user, "file": file, **_report(copied)}
    if output is PageOutput.JSON:
        if file == _STREAM:
            typer.echo(msgspec.json.encode(report).decode(), err=True)
        else:
            print_data(report, output)
        return
    for warning in copied.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    typer.echo(f"{name} of {user}: {_size_in_words(copied.archive_bytes)} in {file}", err=file == _STREAM)


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
        str, typer.Option("--template", "-t", help=("Template whose desktops use it, by the template's scope."))
    ],
    size: Annotated[str | None, typer.Option("--size", help="Size of the home; default: the template's value.")] = None,
    image: Image = None,
    kubectl: Kubectl = None,
    output: PageOption = PageOutput.TABLE,
) -> None:
    """Create a home from an archive; the next desktop of this user and template starts with it.

    An existing home is never changed. No desktop starts on the new home before it is complete; after an error or
    Ctrl-C no home is left. Status 1: nothing was imported; 130: interrupted.
    """
    if not _USER.fullmatch(user):
        raise CliError(f"--user {user}: allowed: an e-mail address", USAGE)
    if size is not None:
        _check_size(size)
    command = find_kubectl(kubectl, connection.kubeconfig, connection.context)

    async def work(client: "Client", source: BinaryIO, run: CopyRun) -> tuple[str, Copied]:
        offered = {offer.metadata.name: offer for offer in await client.list(TEMPLATES, into=VDITemplate)}
        if template not in offered:
            raise CliError(
                f"--template {template}: there is no such template; allowed: {', '.join(sorted(offered))}", USAGE
            )
        home = await _next_home(client, connection.namespace, user, offered[template], size)
        identity = Identity(connection.namespace, name="", uid="", user=user, template=template)
        return home.claim, await import_home(run, identity, home, offered[template], source, image=image)

    with _source(file) as source:
        kept = "No home was created."
        name, copied = _copy(connection, command, lambda client, run: work(client, source, run), kept)
    if output is PageOutput.JSON:
        print_data({"home": name, "user": user, "template": template, "file": file, **_report(copied)}, output)
        return
    for warning in copied.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    typer.echo(f"{name} of {user}: {_size_in_words(copied.content_bytes)} imported")


def _check_size(size: str) -> None:
    try:
        valid = parse_quantity(size) > 0
    except ValueError as error:
        raise CliError(f"--size: {error}", USAGE) from error
    if not valid:
        raise CliError(f"--size {size}: allowed: quantities above zero, such as 20Gi", USAGE)


async def _next_home(client: "Client", namespace: str, user: str, template: VDITemplate, size: str | None) -> Home:
    """The home that a new session of this user and template would have. Raises CliError where that has none to keep."""
    labels = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    claims = await client.list(CLAIMS, namespace=namespace, label_selector=labels, into=PersistentVolumeClaim)
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
        why = f"persistence.scope: {template.spec.persistence.scope.value}" if home else "persistence.enabled: false"
        raise CliError(f"--template {template.metadata.name}: its desktops have no home that stays ({why})", USAGE)
    return home


def _copy(
    connection: KubeConnection,
    command: list[str],
    work: "Callable[[Client, CopyRun], Awaitable[T]]",
    kept: str,
) -> T:
    """Do the work with its progress shown. Raises CliError, which says what is left of it."""
    with ProgressView() as view:
        step, shown = (_MIB if sys.stderr.isatty() else _SHOWN_BYTES), 0

        def moved(count: int) -> None:
            nonlocal shown
            if count // step != shown:
                shown = count // step
                view.waiting(f"{_size_in_words(count)} copied")

        async def run(client: "Client") -> T:
            namespace, flags = connection.namespace, connection.flags
            return await work(client, CopyRun(client, SYSTEM_CLOCK, command, namespace, view.waiting, moved, flags))

        try:
            return connection.run(run)
        except CopyRefusedError as error:
            raise CliError(str(error)) from error
        except CopyFailedError as error:
            raise CliError(f"{error}. {kept}") from error
        except OSError as error:
            raise CliError(f"{error.filename or 'the archive'}: {error.strerror}. {kept}") from error
        except KeyboardInterrupt:
            view.say(f"Interrupted; the pod is removed. {kept}")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _sink(file: str) -> Iterator[FileIO]:
    """Where the archive goes: a file takes its name when all went well, and is deleted otherwise."""
    if file == _STREAM:
        if sys.stdout.isatty():
            raise CliError(
                "an archive cannot be written to a terminal: name a file, or pipe stdout to a program", USAGE
            )
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
            yield stream
        return
    path = Path(file)
    if path.exists():
        raise CliError(f"{file} already exists; name another file", USAGE)
    if not path.parent.is_dir():
        raise CliError(f"the folder {path.parent} does not exist; name a file in an existing folder", USAGE)
    try:
        with new_file(path) as stream:
            yield stream
    except NewFileError as error:
        raise CliError(f"{error}; name another file") from error


@contextmanager
def _source(file: str) -> Iterator[FileIO]:
    if file == _STREAM:
        if sys.stdin.isatty():
            raise CliError("stdin is a terminal: name a file, or pipe an archive to this command", USAGE)
    elif not Path(file).is_file():
        raise CliError(f"{file}: this file does not exist", USAGE)
    # Without a buffer: at the end of the program no thread may hold its lock.
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
