"""`vdi image check`: whether an image can be a desktop. The work is in `vdi.image_check`."""

import re
import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from vdi.api.meta import ObjectMeta
from vdi.api.template import TemplateAccess, TemplateResources, TemplateSpec, VDITemplate
from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.options import PROGRAM, KubeConnection, examples, new_app, seconds_of, with_connection
from vdi.cli.progress import ProgressView
from vdi.cli.terminal import end_on_interrupt
from vdi.findings.model import exit_code
from vdi.image_check.judge import Observation, make_report
from vdi.image_check.observe import NAME, USER, Check, check_image
from vdi.kinds import TEMPLATES
from vdi.kube.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from vdi.kube.transport import Client

app = new_app()

_IS_IMAGE = re.compile(r"[^\s:@/]+[:@/]\S*")


@app.callback()
def image() -> None:
    """Images for desktops."""


@app.command(epilog=examples("image check ubuntu-desktop", "image check registry.example.com/desktop:1 -o junit"))
@with_connection
def check(
    connection: KubeConnection,
    subject: Annotated[
        str,
        typer.Argument(metavar="IMAGE|TEMPLATE", help="Name of a template; with one of / : @ in it, an image."),
    ],
    *,
    timeout: Annotated[str, typer.Option("--timeout", help="Time limit for the start of the desktop.")] = "5m",
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Start a session of an image and report which requirements of docs/your-image.md it meets.

    The session is deleted at the end, also after Ctrl-C. Token table and agent are checked with kubectl from PATH. An
    image that is not Selkies on port 8080 needs a template. Status 0: all requirements are met; 1: some are not; 3:
    some could not be checked; 130: interrupted.
    """
    seconds = seconds_of("--timeout", timeout)

    async def work(client: "Client") -> Observation:
        template = await _find_template(client, subject)
        program = shutil.which("kubectl")
        kubectl = [program, *connection.cluster_words] if program else []
        with ProgressView() as view:
            request = Check(
                client=client,
                namespace=connection.namespace,
                template=template,
                kubectl=kubectl,
                seconds=seconds,
                waiting=view.waiting,
            )
            try:
                return await check_image(request)
            except AlreadyExists as error:
                remove = f"kubectl -n {connection.namespace} delete --ignore-not-found vdisession,vditemplate {NAME}"
                raise CliError(f"another check is running. If it was killed: {remove}") from error

    with end_on_interrupt("Interrupted; the session is deleted."):
        report = make_report(connection.run(work))
    print_report(report, output)
    raise typer.Exit(exit_code(report.findings))


async def _find_template(client: "Client", subject: str) -> VDITemplate:
    """The template of this name; for an image one that no one else may start."""
    if _IS_IMAGE.fullmatch(subject):
        access, resources = TemplateAccess(users=(USER,)), TemplateResources(default_gpu=0)
        spec = TemplateSpec(image=subject, resources=resources, access=access)
        return VDITemplate(metadata=ObjectMeta(name=NAME), spec=spec)
    try:
        return await client.get(TEMPLATES, subject, into=VDITemplate)
    except NotFound as error:
        if error.api_missing:
            raise
        hint = f"{PROGRAM} template ls lists them; an image needs its registry or tag: docker.io/library/{subject}:1"
        raise CliError(f"there is no template {subject}: {hint}", USAGE) from error
