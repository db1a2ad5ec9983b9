"""`vdi kasm preflight`: whether a cluster can take a Kasm. What is judged is in `vdi.kasm.preflight.checks`."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.chart import NEWEST, GenerationOption, KasmNamespace, VersionOption, generation_of, version_of
from vdi.cli.options import Context, Kubeconfig, KubeConnection, examples
from vdi.findings.model import exit_code
from vdi.findings.render import Report
from vdi.kasm.collect.preflight import collect_preflight
from vdi.kasm.generations import Generation, Version
from vdi.kasm.install.chart import merged
from vdi.kasm.preflight.checks import run_checks
from vdi.kasm.preflight.request import PlannedRelease, plan_of_manifests, plan_of_values, sort_documents, with_answers
from vdi.kasm.values.options import Ingress

DOCKER_HUB = "https://registry-1.docker.io"
RELEASE = "kasm"

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=examples(
        "kasm preflight --hostname kasm.example.com",
        "kasm preflight -f my-values.yaml",
        "kasm preflight -f rendered.yaml   # what helm template CHART -f my-values.yaml has printed",
        "kasm preflight --generation B --size medium -o json",
    )
)
def preflight(
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    size: Annotated[str | None, typer.Option(help="deploymentSize: small, medium, large.")] = None,
    values: Annotated[
        list[Path] | None,
        typer.Option(
            "--values",
            "-f",
            metavar="FILE",
            help="Your values (the last file takes precedence), or the output of `helm template` (exact); - is stdin.",
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(help="Host name for browsers.", show_default="the values' host name")
    ] = None,
    ingress: Annotated[
        Ingress | None,
        typer.Option(
            help="How browsers connect: the cluster's Traefik, or a LoadBalancer.", show_default="the values' setting"
        ),
    ] = None,
    registry: Annotated[str, typer.Option(metavar="URL", help="Registry of the images.")] = DOCKER_HUB,
    namespace: KasmNamespace = "kasm",
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check whether this cluster can run Kasm Workspaces; each item has observed and expected value and a fix.

    Requests are compared with the free capacity of the nodes. Status 0: it can (warnings included); 1: it cannot;
    3: an item could not be checked, which does not mean that it passed.
    """
    meant, version = generation_of(generation), version_of(chart_version)
    try:
        planned = _planned(meant, version, size, values or [], namespace)
        planned = with_answers(planned, hostname=hostname, ingress=ingress)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    connection = KubeConnection(namespace=namespace, kubeconfig=kubeconfig, context=context)
    facts = connection.run(
        lambda client: collect_preflight(
            client, namespace=namespace, hostname=planned.hostname, registry=registry, secret=planned.secret
        )
    )
    findings = run_checks(facts, planned)
    about = {"chart": planned.needs.source, "hostname": planned.hostname, "ingress": planned.ingress}
    print_report(Report(tool="vdi kasm preflight", findings=findings, context=about), output)
    raise typer.Exit(exit_code(findings))


def _planned(
    generation: Generation, version: Version | None, size: str | None, files: list[Path], namespace: str
) -> PlannedRelease:
    """Raises ValueError."""
    read = [(file, *sort_documents(_read(file), str(file))) for file in files]
    for file, values, documents in read:
        if values is None:
            if size or version or len(read) > 1:
                raise ValueError(
                    f"{file} has rendered manifests, which are complete: remove --size, --chart-version and other -f"
                )
            return plan_of_manifests(generation, documents, namespace, f"manifests of {file}")
    given = merged(*(values for _, values, _ in read if values is not None))
    return plan_of_values(generation, version or generation.newest, given, namespace, RELEASE, size=size or "")


def _read(file: Path) -> list[Any]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
        return list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--values {file}: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--values {file} is no YAML: {error}") from error
