"""`vdi image check`: whether an image can be a desktop. The work is in `vdi.image_check`."""

import re
import shutil
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from vdi.api.meta import ObjectMeta
from vdi.api.resources import TemplateResources
from vdi.api.template import DEFAULT_HEALTH_PATH, Protocol, Scheme, TemplateSpec, VDITemplate
from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kubectl import cluster_options
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.options import PROGRAM, KubeConnection, examples, seconds_of, with_connection
from vdi.cli.progress import PassedStage, ProgressView
from vdi.findings.model import exit_code
from vdi.image_check.judge import make_report
from vdi.image_check.observation import Observation
from vdi.image_check.pod import AGENT_PORT
from vdi.image_check.run import Check, check_image
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import NotFound
from vdi.operator.kinds import TEMPLATES

if TYPE_CHECKING:
    from vdi.kube.transport import Client

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

_IMAGE = re.compile(r"[^\s:@/]\S*")
_IS_IMAGE = re.compile(r"[/:@]")
_URL_PATH = re.compile(r"/\S*")


@app.callback()
def image() -> None:
    """Images for desktops."""


@app.command(
    epilog=examples(
        "image check ubuntu-desktop",
        "image check registry.example.com/lab:1 --protocol Web --port 8888 --health-path /api",
        "image check registry.example.com/desktop:1 -o junit",
    )
)
@with_connection
def check(
    connection: KubeConnection,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|TEMPLATE", help="Name of a template; with one of / : @ in it, an image as in `image`."
        ),
    ],
    *,
    port: Annotated[int | None, typer.Option("--port", help="For an image: its port. Default: 8080.")] = None,
    protocol: Annotated[
        Protocol | None, typer.Option("--protocol", help="For an image: what it serves. Default: Selkies.")
    ] = None,
    health_path: Annotated[
        str | None,
        typer.Option(
            "--health-path", help=("For an image: the path that responds when it is ready. Default: as in a template.")
        ),
    ] = None,
    scheme: Annotated[Scheme | None, typer.Option("--scheme", help="For an image. Default: HTTP.")] = None,
    run_as_user: Annotated[
        int | None, typer.Option("--run-as-user", help="For an image: user and group id. Default: 1000.")
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Time limit for pulling and starting it.")] = "5m",
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Start an image once as a desktop and report which requirements of docs/your-image.md it meets.

    The pod is removed at the end, also after Ctrl-C. The checks of picture, token table and agent need kubectl in
    PATH. Status 0: all requirements are met; 1: some are not; 3: some could not be checked; 130: interrupted.
    """
    seconds = seconds_of("--timeout", timeout)
    options = {
        "--port": port,
        "--protocol": protocol,
        "--health-path": health_path,
        "--scheme": scheme,
        "--run-as-user": run_as_user,
    }
    of_image = _template_of_image(
        subject, port=port, protocol=protocol, health_path=health_path, scheme=scheme, run_as_user=run_as_user
    )
    if of_image is None and (given := [name for name, value in options.items() if value is not None]):
        raise CliError(f"{', '.join(given)}: for an image only; template {subject} sets it itself", USAGE)

    async def work(client: "Client") -> Observation:
        template = of_image or await _read_template(client, subject)
        name = f"image/{subject}" if of_image else f"vditemplate/{subject}"
        with ProgressView() as view:
            stage = SYSTEM_CLOCK.monotonic()

            def passed(text: str) -> None:
                nonlocal stage
                now = SYSTEM_CLOCK.monotonic()
                view.passed(PassedStage(text, now - stage))
                stage = now

            return await check_image(
                Check(
                    client=client,
                    namespace=connection.namespace,
                    subject=name,
                    template=template,
                    kubectl=_kubectl(connection),
                    seconds=seconds,
                    passed=passed,
                    waiting=view.waiting,
                )
            )

    # Both ways in which a command is ended leave no pod behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        seen = connection.run(work)
    except KeyboardInterrupt:
        typer.echo("Interrupted; the pod is removed.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    report = make_report(seen)
    print_report(report, output)
    raise typer.Exit(exit_code(report.findings))


def _template_of_image(
    subject: str,
    *,
    port: int | None,
    protocol: Protocol | None,
    health_path: str | None,
    scheme: Scheme | None,
    run_as_user: int | None,
) -> VDITemplate | None:
    """A template for this image alone; None where the name is that of a template."""
    if not _IS_IMAGE.search(subject):
        return None
    if not _IMAGE.fullmatch(subject):
        raise CliError(f"{subject!r} is not the name of an image; allowed: registry.example.com/lab:1", USAGE)
    if port is not None and not (1 <= port <= 65535 and port != AGENT_PORT):
        raise CliError(f"--port {port}: allowed: 1 to 65535, but not {AGENT_PORT}, the agent's", USAGE)
    if health_path is not None and not _URL_PATH.fullmatch(health_path):
        raise CliError(f"--health-path {health_path!r}: allowed: the path of a URL, such as /api", USAGE)
    if run_as_user is not None and not 1 <= run_as_user < 2**31:
        raise CliError(f"--run-as-user {run_as_user}: allowed: 1 to {2**31 - 1}; never root", USAGE)
    spec = TemplateSpec(
        image=subject,
        port=port or 8080,
        protocol=protocol or Protocol.SELKIES,
        health_path=health_path or DEFAULT_HEALTH_PATH,
        scheme=scheme or Scheme.HTTP,
        run_as_user=run_as_user or 1000,
        resources=TemplateResources(default_gpu=0),
    )
    return VDITemplate(metadata=ObjectMeta(name="image-check"), spec=spec)


async def _read_template(client: "Client", name: str) -> VDITemplate:
    try:
        return await client.get(TEMPLATES, name, into=VDITemplate)
    except NotFound as error:
        if error.api_missing:
            raise
        hint = f"{PROGRAM} template ls lists them; an image needs its registry or tag: docker.io/library/{name}:latest"
        raise CliError(f"there is no template {name}: {hint}", USAGE) from error


def _kubectl(connection: KubeConnection) -> list[str]:
    """The command that forwards ports of the same cluster; empty without kubectl."""
    program = shutil.which("kubectl")
    return [program, *cluster_options(connection.kubeconfig, connection.context)] if program else []
