"""`vdi kasm diagnose`: why a pod of Kasm is stuck. What is looked at and judged is in `vdi.doctor`."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from vdi.cli.doctor import read_bundle, save_bundle
from vdi.cli.errors import CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.options import KasmNamespace
from vdi.cli.options import Context, Kubeconfig, KubeConnection, examples
from vdi.diagnosis.dns import dns_down
from vdi.diagnosis.redact import redact
from vdi.diagnosis.snapshot import Scope, Snapshot
from vdi.doctor.checks.infrastructure import nodes_unwell
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import collect
from vdi.findings.model import Finding, Severity, exit_code
from vdi.findings.render import Report, count_findings
from vdi.kasm.diagnosis.chains import all_links, kasm_chains
from vdi.kasm.diagnosis.installation import Installation, find_kasm, is_kasms
from vdi.kube.clock import SYSTEM_CLOCK

CHECKS = (nodes_unwell, dns_down, kasm_chains)

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kasm diagnose",
        "kasm diagnose kasm-proxy-default-deployment",
        "kasm diagnose --namespace kasm -o json",
        "kasm diagnose --bundle kasm.json",
        "kasm diagnose --from kasm.json",
    )
)
def diagnose(
    pod: Annotated[
        str | None,
        typer.Argument(help=("Only this pod, or the pods of this workload, and everything that they wait for.")),
    ] = None,
    *,
    namespace: KasmNamespace = "kasm",
    output: FindingsOption = FindingsOutput.TEXT,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="FILE", help=("Save the collected data in this file, without secrets and names.")
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Check a bundle instead of a cluster.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Find out why pods of Kasm are stuck, as in Init:1/5: what each waits for, the cause, and how to fix it.

    Identify an init container by its name: the same number is a different one in another chart. Changes nothing.
    Status 0: no problems; 1: findings; 3: something could not be checked, which does not mean that it passed.
    """

    connection = KubeConnection(namespace=namespace, kubeconfig=kubeconfig, context=context)
    scope = Scope(namespace, kasm=True)
    snapshot = read_bundle(source) if source else connection.run(lambda client: collect(client, scope, SYSTEM_CLOCK))
    if bundle:
        save_bundle(redact(snapshot), bundle)
    places = find_kasm(snapshot)
    findings, starting = _findings(snapshot), _starting(snapshot)
    if "pods" not in snapshot.unreadable_kinds:
        _require_pods(snapshot, places, namespace)
    if pod is not None:
        findings, starting = _about(places, pod, findings, starting)
    report = Report(
        tool="vdi kasm diagnose",
        findings=findings,
        summary=_summary(places, findings, starting),
        warnings_fail=True,
        context=_context(snapshot, places, starting),
        notes=[f"starting {finding.object}\n  {finding.message}" for finding in starting],
        timestamp=snapshot.taken_at,
    )
    print_report(report, output)
    raise typer.Exit(exit_code(findings, warnings_fail=report.warnings_fail))


def _findings(snapshot: Snapshot) -> list[Finding]:
    """What is wrong. What no check of Kasm reads need not be readable."""
    needed = {f"kind/{kind}" for check in CHECKS for kind in check.needs}
    return [
        finding
        for finding in run_checks(snapshot, CHECKS)
        if finding.code != "not_readable" or finding.object in needed
    ]


def _starting(snapshot: Snapshot) -> list[Finding]:
    """Pods that are not ready, with which nothing is wrong yet."""
    if snapshot.unreadable_kinds & kasm_chains.needs:
        return []
    return [link.finding for link in all_links(snapshot) if link.is_starting and link.finding.object.startswith("pod/")]


def _require_pods(snapshot: Snapshot, places: Iterable[Installation], namespace: str) -> None:
    if any(place.pods or place.workloads for place in places):
        return
    elsewhere = {pod["metadata"]["namespace"] for pod in snapshot.raw("pods") if is_kasms(pod)}
    hint = f"; it is in {', '.join(sorted(elsewhere))}: name it with --namespace" if elsewhere else ""
    raise CliError(f"there is no Kasm in namespace {namespace}{hint}")


def _about(
    places: Iterable[Installation], pod: str, findings: list[Finding], starting: list[Finding]
) -> tuple[list[Finding], list[Finding]]:
    """Those about this pod, and what they follow from."""
    names = [pod.name for kasm in places for pod in kasm.pods]
    workloads = [workload.name for kasm in places for workload in kasm.workloads]
    chosen = [name for name in names if name == pod or (pod in workloads and name.startswith(f"{pod}-"))]
    if not chosen and pod not in workloads:
        near = difflib.get_close_matches(pod, [*names, *workloads], n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; available: {', '.join(names) or 'none'}"
        raise CliError(f"Kasm has no pod or workload {pod}{hint}")
    by_key = {finding.key: finding for finding in findings}
    kept: set[str] = set()
    for finding in findings:
        name = finding.object.rpartition("/")[2]
        if name in chosen or name == pod:
            key = finding.key
            while key in by_key and key not in kept:
                kept.add(key)
                key = by_key[key].caused_by
    found = [finding for finding in findings if finding.key in kept or finding.severity is Severity.UNKNOWN]
    return found, [finding for finding in starting if finding.object.rpartition("/")[2] in chosen]


def _summary(places: Iterable[Installation], findings: list[Finding], starting: list[Finding]) -> str:
    looked = "; ".join(_words(place) for place in places)
    rest = f"{len(starting)} pods are starting, and they have no problems so far" if starting else "no problems found"
    return f"Checked {looked}: {count_findings(findings) if findings else rest}."


def _words(kasm: Installation) -> str:
    ready = sum(pod.ready for pod in kasm.pods)
    generation = f", generation {kasm.generation.letter}" if kasm.generation else ", an unknown chart"
    return f"{len(kasm.pods)} pods in {kasm.namespace} ({kasm.chart or 'no chart label'}{generation}), {ready} ready"


def _context(snapshot: Snapshot, places: Iterable[Installation], starting: list[Finding]) -> dict[str, Any]:
    return {
        "takenAt": snapshot.taken_at,
        "namespaces": [
            {
                "namespace": place.namespace,
                "chart": place.chart,
                "generation": place.generation.letter if place.generation else "",
                "pods": len(place.pods),
                "ready": sum(pod.ready for pod in place.pods),
            }
            for place in places
        ],
        "starting": [{"object": finding.object, "message": finding.message} for finding in starting],
    }
