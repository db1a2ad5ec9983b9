"""`vdi kasm validate`: whether a Kasm that was installed is whole. What is judged is in `vdi.kasm.validate.checks`."""

import ipaddress
from typing import Annotated

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.chart import KasmNamespace
from vdi.cli.options import Context, Kubeconfig, KubeConnection, examples
from vdi.findings.model import exit_code
from vdi.findings.render import Report
from vdi.kasm.collect.validate import collect_validate
from vdi.kasm.preflight.installed import find_installed
from vdi.kasm.validate.agents import notes
from vdi.kasm.validate.checks import validate as run_checks

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=examples(
        "kasm validate",
        "kasm validate --namespace kasm --hostname kasm.example.com -o json",
        "kasm validate --connect 192.0.2.10:443",
    )
)
def validate(
    *,
    hostname: Annotated[
        str | None, typer.Option(help="Host name for browsers.", show_default="the host of the Ingress or IngressRoute")
    ] = None,
    connect: Annotated[
        str,
        typer.Option(metavar="ADDRESS[:PORT]", help="Connect there instead of to the address of the host name."),
    ] = "",
    namespace: KasmNamespace = "kasm",
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check an installation of Kasm Workspaces: release, pods, Services, volumes, database, certificate, web UI.

    Each line has the expected and the observed value. Status 0: valid (warnings included); 1: not valid; 3: a line
    could not be checked, which does not mean that it passed.
    """
    if connect and not _is_address(connect):
        raise CliError(f"--connect is {connect!r}; allowed: an IP address, or one with a port (a.b.c.d:443)", USAGE)
    found = KubeConnection(namespace=namespace, kubeconfig=kubeconfig, context=context).run(
        lambda client: collect_validate(client, namespace=namespace, hostname=hostname or "", connect=connect)
    )
    findings = run_checks(found)
    installed = find_installed(found, namespace)
    noted = notes(found) if installed else []
    about = {
        "namespace": namespace,
        "installed": installed.words if installed else "",
        "hostname": found.hostname,
        "notes": noted,
    }
    print_report(Report(tool="vdi kasm validate", findings=findings, context=about, notes=noted), output)
    raise typer.Exit(exit_code(findings))


def _is_address(connect: str) -> bool:
    address, _, port = connect.rpartition(":") if connect.count(":") == 1 else (connect, "", "443")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return port.isdigit() and 0 < int(port) < 65536
