"""`vdi template`: ls and show read templates; new prints one for an image; try starts it once
(`vdi.image_check`).
"""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from vdi.api.meta import API_VERSION
from vdi.api.streaming import TemplateStreaming
from vdi.api.template import (
    IdleAction,
    Lifecycle,
    PrePullStatus,
    TemplatePersistence,
    TemplateResources,
    TemplateSpec,
    TimeoutAction,
    VDITemplate,
)
from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.options import (
    PROGRAM,
    KubeConnection,
    examples,
    new_app,
    of_kind,
    read_yaml,
    seconds_of,
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
    without_managed_fields,
)
from vdi.cli.session.backend import Target
from vdi.cli.session.kube_backend import KubeBackend
from vdi.cli.session.operations import get_template
from vdi.cli.session.target import complete_templates, with_backend
from vdi.cli.terminal import end_on_interrupt
from vdi.findings.model import exit_code
from vdi.kube.errors import AlreadyExists
from vdi.kube.transport import Client
from vdi.session.effective import maximum_of
from vdi.session.template_image import find_warnings, generation, health_path
from vdi.settings import SUBDOMAIN

app = new_app("The templates of desktops that can be started.")

_NEW = """\
# Try it: {program} template try {name}.yaml; then: kubectl apply -f {name}.yaml
apiVersion: {api}
kind: VDITemplate
metadata:
  name: "{name}"
spec:
  displayName: {title}
  image: {image}
  resources: {{defaultGPU: 0, defaultCPU: "2", defaultMemory: 4Gi}}
  persistence: {{size: 10Gi, mountPath: /home/user}}
  lifecycle: {{idleTimeout: 2h, onIdle: Suspend}}
  # An image that is not Selkies 2 on port 8080 also needs the fields of docs/your-image.md, such as:
  # protocol: Web
  # port: 8888
  # healthPath: /api
"""


@app.command("ls", epilog=examples("template ls", "template ls -o wide"))
@with_backend
def list_(
    target: Target,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List the templates: those of the cluster, or those that you can use at the gateway."""
    found = target.run(lambda backend: backend.templates())
    name, empty = (
        (lambda raw: f"vditemplate/{raw['metadata']['name']}"),
        "there are no templates that you can use",
    )
    print_objects(found, output, name=name, table=template_table, empty=empty)


@app.command(
    epilog=examples("template show ubuntu-desktop", "template show ubuntu-desktop -o yaml")
)
@with_backend
def show(
    target: Target,
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the template.",
            callback=of_kind("vditemplate"),
            autocompletion=complete_templates,
        ),
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a template: what its desktops consist of, and the maximum that a session may request."""
    raw = target.run(lambda backend: get_template(backend, name))
    print_object(
        without_managed_fields(raw),
        output,
        lambda: template_lines(msgspec.convert(raw, VDITemplate)),
    )


@app.command(epilog=examples("template new lab --from-image registry.example.com/lab:1 > lab.yaml"))
def new(
    name: Annotated[str, typer.Argument(help="Name of the template.")],
    *,
    image: Annotated[
        str, typer.Option("--from-image", metavar="IMAGE", help="Image of its desktops.")
    ],
) -> None:
    """Print the YAML of a template for an image. Nothing is created.

    The template fits an image with Selkies 2 on port 8080; comments name the fields that any other
    image needs.
    """
    if not re.fullmatch(SUBDOMAIN, name):
        raise CliError(
            f"the template's name is {name!r}; allowed: lower-case letters, digits, - and .", USAGE
        )
    title = name.replace("-", " ").capitalize()
    values = {"name": name, "title": json.dumps(title), "image": json.dumps(image)}
    typer.echo(_NEW.format(program=PROGRAM, api=API_VERSION, **values), nl=False)


@app.command(
    "try", epilog=examples("template try lab.yaml", "template try ubuntu-desktop -o junit")
)
@with_connection
def try_(
    connection: KubeConnection,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="FILE|TEMPLATE", help="YAML of a template, - for stdin; else the name of one."
        ),
    ],
    *,
    timeout: Annotated[
        str, typer.Option("--timeout", help="Time limit for the start of the desktop.")
    ] = "5m",
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Start a desktop of a template once: the doctor's findings, and the requirements of
    docs/your-image.md it meets.

    The session, and the template of a file, are deleted at the end, also after Ctrl-C. Token table
    and agent are checked with kubectl from PATH. Status 0: all requirements are met; 1: some are
    not; 3: some could not be checked; 130: interrupted.
    """
    from vdi.cli.progress import ProgressView
    from vdi.image_check.judge import TRIAL, Observation, make_report
    from vdi.image_check.observe import USER, Check, check_image

    seconds = seconds_of("--timeout", timeout)
    # None: a template of the cluster.
    file = None
    if subject == "-" or Path(subject).is_file():
        file = _read_template(subject)

    async def work(client: Client) -> Observation:
        backend, program = KubeBackend(client, connection.namespace), shutil.which("kubectl")
        raw = file or await get_template(backend, subject)
        with ProgressView() as view:
            check = Check(
                client=client,
                namespace=connection.namespace,
                template=msgspec.convert(raw, VDITemplate),
                spec=file and {**file["spec"], "access": {"users": [USER]}, "prePull": False},
                kubectl=[program, *connection.cluster_words] if program else [],
                seconds=seconds,
                waiting=view.waiting,
            )
            try:
                return await check_image(check)
            except AlreadyExists as error:
                remove = (
                    f"kubectl -n {connection.namespace} delete --ignore-not-found"
                    f" vdisession,vditemplate {TRIAL}"
                )
                raise CliError(f"another try is running. If it was killed: {remove}") from error

    with end_on_interrupt("Interrupted; the session is deleted."):
        report = make_report(connection.run(work))
    print_report(report, output)
    raise typer.Exit(exit_code(report.findings))


def _read_template(file: str) -> Raw:
    """A template as it is written in a file: the API server refuses a field that it does not
    know.
    """
    try:
        raw = read_yaml(Path(file))
        if (kind := (raw.get("apiVersion"), raw.get("kind"))) != (API_VERSION, "VDITemplate"):
            raise msgspec.ValidationError(f"its apiVersion and kind are {kind}")
        msgspec.convert(raw, VDITemplate)
    except msgspec.ValidationError as error:
        raise CliError(f"{file} is not a VDITemplate of {API_VERSION}: {error}", USAGE) from error
    return raw


def template_table(items: Sequence[Raw], wide: bool) -> list[str]:
    """The lines of `ls`."""
    now, rows = now_utc(), []
    for template in (msgspec.convert(raw, VDITemplate) for raw in items):
        spec, ask = template.spec, template.spec.resources
        row = [
            template.metadata.name,
            spec.display_name or "-",
            str(ask.default_gpu),
            str(ask.default_memory),
        ]
        row += [
            str(ask.default_cpu),
            pulled(template),
            age(template.metadata.creation_timestamp, now),
        ]
        rows.append([*row, spec.image, spec.description or "-"] if wide else row)
    header = [
        "NAME",
        "DISPLAY NAME",
        "GPU",
        "MEMORY",
        "CPU",
        "PRE-PULL",
        "AGE",
        *(["IMAGE", "DESCRIPTION"] if wide else []),
    ]
    return columns(header, rows)


def pulled(template: VDITemplate) -> str:
    """Progress of the pre-pull, such as `2/3 nodes`; `-` where the template has none."""
    progress = template.status.pre_pull
    if not template.spec.pre_pull:
        return "-"
    if progress is None:
        return "not begun"
    failed = f", {len(progress.failed)} failed" if progress.failed else ""
    return f"{progress.ready}/{progress.desired} nodes{failed}"


def serves(spec: TemplateSpec) -> str:
    """The streaming protocol of the image, or its own web page, and the Secret for its login."""
    what = "its own page (protocol Web)"
    if generation(spec):
        what = f"Selkies {generation(spec)}"
    login = spec.basic_auth_secret
    if login:
        return f"{what}; the gateway signs in with Secret {login.name}"
    return what


def _local_disk(resources: TemplateResources) -> str:
    """Empty where it has no limit."""
    default, most = resources.default_ephemeral_storage, resources.max_ephemeral_storage
    if default is None:
        return ""
    return f"{default} of the node's local disk{f', at most {most}' if most is not None else ''}"


def _home(home: TemplatePersistence) -> str:
    limit = ""
    if home.max_size is not None:
        limit = f", at most {home.max_size},"
    return f"{home.size}{limit} at {home.mount_path}, class {home.storage_class}"


def _runs(life: Lifecycle) -> str:
    """Time limit and idle timeout, each with its action."""
    length = "set by the session"
    if life.max_timeout:
        length = f"at most {life.max_timeout}"
    idle = ""
    if life.idle_timeout:
        idle = f"after {life.idle_timeout} without use {_end(life.on_idle)}"
    return f"{length}, {_end(life.on_timeout)}" + (f"; {idle}" if idle else "")


def _end(action: TimeoutAction | IdleAction) -> str:
    match action:
        case TimeoutAction.TERMINATE | IdleAction.TERMINATE:
            return "then deleted"
        case TimeoutAction.SUSPEND | IdleAction.SUSPEND:
            return "then suspended"


def _streams(streaming: TemplateStreaming) -> str:
    """Settings of the stream, each with its lock."""
    settings = msgspec.to_builtins(streaming)
    settings.pop("locked", None)
    described = []
    for name, value in settings.items():
        if isinstance(value, bool):
            value = "on" if value else "off"
        lock = " (locked)" if name in streaming.locked else ""
        described.append(f"{name} {value}{lock}")
    return ", ".join(described)


def _pre_pull_lines(progress: PrePullStatus) -> list[str]:
    lines = [
        "",
        f"Pre-pull of {progress.image}: {progress.ready} of {progress.desired} nodes have it",
    ]
    if progress.pulling:
        lines.append(f"  in progress: {', '.join(progress.pulling)}")
    lines += [f"  failed on {node.node}: {node.message or node.reason}" for node in progress.failed]
    return lines


def template_lines(template: VDITemplate) -> list[str]:
    """The lines of `show`."""
    spec, ask, home = template.spec, template.spec.resources, template.spec.persistence
    gpu = f"{ask.default_gpu}, at most {maximum_of(ask).gpu}"
    if ask.max_memory is None:
        most_memory = ""
    else:
        most_memory = f", at most {ask.max_memory}"
    most_cpu = "" if ask.max_cpu is None else f", at most {ask.max_cpu}"
    if spec.keyboard:
        keyboard = [spec.keyboard.layout, spec.keyboard.variant]
    else:
        keyboard = []
    facts = {
        "Template": template.metadata.name,
        "Name": spec.display_name,
        "About": spec.description,
        "Image": spec.image,
        "Serves": serves(spec),
        "GPU": gpu if ask.default_gpu else "none: desktops without a GPU",
        "Memory": f"{ask.default_memory}{most_memory}",
        "CPU": f"{ask.default_cpu}{most_cpu}",
        "Disk": _local_disk(ask),
        "Home": _home(home) if home.enabled else "none",
        "Port": f"{spec.port}, {spec.scheme}, health {health_path(spec)}",
        "Runs as": f"user {spec.user_id}",
        "Runs": _runs(spec.lifecycle),
        "Streaming": _streams(spec.streaming),
        "App": shlex.join(spec.app.command) if spec.app else "",
        "Keyboard": " ".join(filter(None, keyboard)),
        "Pre-pull": pulled(template) if spec.pre_pull else "",
        "Revision": str(template.metadata.generation),
    }
    lines = fact_lines(facts)
    lines += [f"Warning:   {warning}" for warning in find_warnings(spec)]
    if spec.pre_pull and template.status.pre_pull:
        lines += _pre_pull_lines(template.status.pre_pull)
    return [*lines, *_environment_lines(spec), *_volume_lines(spec)]


def _environment_lines(spec: TemplateSpec) -> list[str]:
    lines = ["", "Environment"] if spec.env else []
    for variable in spec.env:
        value = variable.value or ""
        if variable.value_from and (ref := variable.value_from.secret_key_ref):
            value = f"(key {ref.key} of Secret {ref.name})"
        lines.append(f"  {variable.name}={value}")
    return lines


def _volume_lines(spec: TemplateSpec) -> list[str]:
    if not spec.volumes:
        return []
    rows = []
    for volume in spec.volumes:
        access = "read-only" if volume.read_only else "writable"
        rows.append([volume.name, volume.mount_path, access])
    table = columns(["NAME", "MOUNTED AT", "ACCESS"], rows)
    return ["", "Volumes", *(f"  {line}" for line in table)]
