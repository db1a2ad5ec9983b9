"""`vdi kasm preflight`: whether a cluster can take a Kasm. What is judged is in `vdi.kasm.preflight`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from vdi.cli.failures import COULD_NOT_LOOK, FINDINGS, USAGE, CommandFailedError
from vdi.cli.kasm_chart import GenerationOption, KasmNamespace, VersionOption, generation_of, version_of
from vdi.cli.options import Context, Kubeconfig, Target, examples
from vdi.cli.output import PageOption, PageOutput, columns, print_data
from vdi.kasm.answers import Ingress
from vdi.kasm.collect import collect_preflight
from vdi.kasm.generations import Generation, Version
from vdi.kasm.install_chart import merged
from vdi.kasm.preflight import examine
from vdi.kasm.preflight_line import Line, Verdict, worst
from vdi.kasm.preflight_wish import Wish, sort_documents, wish_of_manifests, wish_of_values, with_answers

DOCKER_HUB = "https://registry-1.docker.io"
RELEASE = "kasm"
_MARKS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.UNKNOWN: "?"}
_CODES = {Verdict.FAIL: FINDINGS, Verdict.UNKNOWN: COULD_NOT_LOOK}

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
    generation: GenerationOption = "C",
    chart_version: VersionOption = None,
    size: Annotated[str | None, typer.Option(help="deploymentSize: small, medium, large.")] = None,
    values: Annotated[
        list[Path] | None,
        typer.Option(
            "--values",
            "-f",
            metavar="FILE",
            help="Your values (the last one wins), or what `helm template` printed (exact); - is stdin.",
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(help="Name that browsers will use.", show_default="that of the values")
    ] = None,
    ingress: Annotated[
        Ingress | None,
        typer.Option(
            help="How browsers get in: the cluster's Traefik, or a LoadBalancer.", show_default="that of the values"
        ),
    ] = None,
    registry: Annotated[str, typer.Option(metavar="URL", help="Registry that images come from.")] = DOCKER_HUB,
    namespace: KasmNamespace = "kasm",
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Whether this cluster can take Kasm Workspaces: each line measured, with what is seen, wanted, and what mends it.

    Requests are held against what the nodes have left. Status 0: it can (warnings included); 1: it cannot; 3: a line
    could not be looked at, which is never a pass.
    """
    meant, version = generation_of(generation), version_of(chart_version)
    try:
        wish = _wish(meant, version, size, values or [], namespace)
        wish = with_answers(wish, hostname=hostname, ingress=ingress)
    except ValueError as error:
        raise CommandFailedError(str(error), USAGE) from error
    target = Target(namespace=namespace, kubeconfig=kubeconfig, context=context)
    facts = target.run(
        lambda client: collect_preflight(client, namespace=namespace, hostname=wish.hostname, registry=registry)
    )
    lines = examine(facts, wish)
    print_lines(lines, output, {"chart": wish.needs.source, "hostname": wish.hostname, "ingress": wish.ingress})
    raise typer.Exit(exit_code(lines))


def _wish(generation: Generation, version: Version | None, size: str | None, files: list[Path], namespace: str) -> Wish:
    """Raises ValueError."""
    read = [(file, *sort_documents(_read(file), str(file))) for file in files]
    for file, values, documents in read:
        if values is None:
            if size or version or len(read) > 1:
                raise ValueError(
                    f"{file} has rendered manifests, which are whole: no --size, --chart-version, other -f"
                )
            return wish_of_manifests(generation, documents, namespace, f"manifests of {file}")
    given = merged(*(values for _, values, _ in read if values is not None))
    return wish_of_values(generation, version or generation.newest, given, namespace, RELEASE, size=size or "")


def _read(file: Path) -> list[Any]:
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
        return list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--values {file}: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--values {file} is no YAML: {error}") from error


def exit_code(lines: Sequence[Line]) -> int:
    """Warnings are for people to read: they stop nothing."""
    return _CODES.get(worst(lines), 0)


def print_lines(lines: Sequence[Line], output: PageOutput, about: dict[str, Any]) -> None:
    """A checklist: a table, then why and what to do for all that does not pass; or JSON with all that is about it."""
    verdict = worst(lines)
    if output is PageOutput.JSON:
        print_data({**about, "verdict": verdict, "lines": [line.public() for line in lines]}, output)
        return
    rows = [[f"{_MARKS[line.verdict]} {line.verdict}", line.check, line.seen, line.wanted] for line in lines]
    colours = {Verdict.WARN: typer.colors.YELLOW, Verdict.FAIL: typer.colors.RED, Verdict.UNKNOWN: typer.colors.MAGENTA}
    table = columns(["VERDICT", "CHECK", "SEEN", "WANTED"], rows)
    typer.echo(table[0])
    for line, text in zip(lines, table[1:], strict=True):
        typer.echo(typer.style(text, fg=colours.get(line.verdict)))
    for text in [*_details(lines), *(f"\n  {note}" for note in about.get("notes") or ())]:
        typer.echo(text)
    typer.echo(f"\n{_counted(lines)}")


def _details(lines: Iterable[Line]) -> Iterable[str]:
    for line in lines:
        if line.verdict is Verdict.PASS and not line.arithmetic:
            continue
        yield f"\n{_MARKS[line.verdict]} {line.check}{': ' if line.why else ''}{line.why}"
        yield from (f"    | {text}" for text in line.arithmetic)
        if line.remedy:
            yield f"    → {line.remedy}"


def _counted(lines: Iterable[Line]) -> str:
    counts = Counter(line.verdict for line in lines)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
