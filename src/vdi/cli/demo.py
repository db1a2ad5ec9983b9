"""`vdi demo`: from nothing to the portal and a desktop in the browser, on this machine."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from vdi.cli.cluster import PARTLY_REMOVED, Name, NodeCount, errors_in_words, progress_of
from vdi.cli.options import TimeoutFactor, examples, new_app
from vdi.cli.output import Output, OutputOption, print_object
from vdi.demo import run, scene
from vdi.demo.browser import NoPictureError

app = new_app()


@app.command(epilog=examples("demo up --screenshot demo.png", "demo up --nodes 3 -o json"))
def up(
    name: Name = "demo",
    screenshot: Annotated[
        Path | None, typer.Option("--screenshot", help="Save a picture of the desktop here.")
    ] = None,
    nodes: NodeCount = None,
    with_scene: Annotated[
        bool,
        typer.Option(
            "--scene/--no-scene", help="Add people, templates, sessions and a pool to try."
        ),
    ] = True,
    timeout_factor: TimeoutFactor = 1.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Build what is missing, start a cluster, install the chart, create a user, and start a
    session.
    """
    down_again = f"vdi demo down{'' if name == 'demo' else f' --name {name}'}"
    left = (
        "Run the same command again to go on; a cluster that it has started keeps running until"
        f" {down_again}."
    )
    with (
        errors_in_words(run.DemoError, NoPictureError, interrupted=left),
        progress_of(name) as progress,
    ):
        demo = run.up(
            name,
            browser=screenshot is not None,
            nodes=nodes,
            templates=scene.TEMPLATES if with_scene else {},
            timeout_factor=timeout_factor,
            progress=progress,
        )
        url = run.start_session(demo, progress=progress)
        if screenshot:
            run.take_picture(url, demo, screenshot, progress=progress)
        if with_scene:
            people, left_out = scene.seed(demo, progress=progress)
        else:
            people, left_out = [], ""
    authority = demo.kubeconfig.parent / "pki/web-ca.crt"
    lines = [
        *("", f"The portal: {demo.login.portal}"),
        f"  sign in as {demo.login.user} with {demo.login.password} (an administrator)",
        *(f"  sign in as {person.user} with {person.password}" for person in people),
        f"A desktop is running: {url}",
        *([f"  a picture of it: {screenshot}"] if screenshot else []),
        *([f"Left out: {left_out}"] if left_out else []),
        "This cluster enforces no NetworkPolicies: its desktops reach each other.",
        "Programs that find no *.localhost, such as Python's, need in /etc/hosts: 127.0.0.1"
        f" {urlsplit(demo.login.portal).hostname}, and SSL_CERT_FILE={authority}",
        *("", "Try this:", f"  export KUBECONFIG={demo.kubeconfig} PATH={demo.tools}:$PATH"),
    ]
    if with_scene:
        lines += [
            "  vdi session show alice-cad      # why it waits, and when a GPU is expected",
            "  vdi session suspend bob-cad      # its GPUs go to alice-cad",
            f"  vdi login {demo.login.portal} --ca-file {authority}",
        ]
    else:
        lines.append(f"  vdi session show {run.SESSION}")
    data = {
        "portal": demo.login.portal,
        "user": demo.login.user,
        "password": demo.login.password,
        "people": [{"user": person.user, "password": person.password} for person in people],
        "leftOut": left_out,
        "desktop": {
            "session": run.SESSION,
            "url": url,
            "screenshot": str(screenshot) if screenshot else None,
        },
        "kubeconfig": str(demo.kubeconfig),
        "tools": str(demo.tools),
    }
    print_object(data, output, lambda: [*lines, f"  {down_again}"])


@app.command(epilog=examples("demo down", "demo down -o json"))
def down(name: Name = "demo", output: OutputOption = Output.TABLE) -> None:
    """Stop the demo and restore the machine's state. Built programs and images stay in the
    cache.
    """
    with errors_in_words(interrupted=PARTLY_REMOVED):
        removed = run.down(name)
    if removed:
        line = f"Removed: {', '.join(removed)}."
    else:
        line = f"There is no demo {name!r}."
    print_object({"removed": removed}, output, lambda: [line])
