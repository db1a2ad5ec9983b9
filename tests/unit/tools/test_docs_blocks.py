"""Every block of README and docs is run or applied by a test, or checked as far as it can be
without a cluster.

A new block of ours needs nothing here: commands of `vdi`, `make`, `kubectl`, `helm` and Python
modules are checked against the programs themselves, YAML against the schemas of CRDs and chart.
`tests/cluster/test_crd_refusals.py` also gives the objects to an API server.
"""

import importlib.util
import re
from typing import Any

import pytest
import typer
import yaml
from typer._click.exceptions import ClickException

from support.docs_blocks import ROOT, Block, all_blocks, commands, errors, readings
from vdi.cli.main import app

# Pages of which a test runs blocks as they are, and that test.
RUN = (
    ("README.md", "tests/e2e/test_demo_scene.py"),
    ("README.md", "tests/k3s/run"),
    ("docs/agents.md", "tests/unit/client/test_client.py"),
    ("docs/backup.md", "tests/cluster/test_backup_rehearsal.py"),
    ("docs/install-variants.md", "tests/cluster/test_chart_values_files.py"),
)
# Why nothing runs them: programs, and keys by which a YAML document is known.
NOT_RUN = {
    "age": "another project's program; encryption is the reader's choice",
    "base64": "decodes for the eye",
    "cosign": (
        "another project's program; `vdi install --verify` and `make release-verify` are tested"
    ),
    "curl": "REST: test_api_openapi; get.k3s.io: `make machines` installs K3s itself",
    "docker": "`make images` builds the same in tests; the program may be missing",
    "echo": "between two documents",
    "k3s": "only on a K3s node: tests/k3s",
    "openssl": "another project's program",
    "sh": "the installer of K3s: tests/k3s",
    "sha256sum": "`vdi` verifies the same sums: test_release_verify",
    "tee": "only on a K3s node: tests/k3s",
}
NOT_OURS = {
    "alice@example.com": "the users file of the gateway: test_login_users_file",
    "configs": "K3s' registries.yaml",
    "kubelet-arg": "K3s' config.yaml: test_chart_fit calculates with it",
    "scrape_configs": "Prometheus' own configuration",
    "server": "K3s' config.yaml of a second server",
    "valuesContent": "K3s' HelmChartConfig",
    "prune": "Flux' Kustomization of the CRDs; its HelmRelease is checked",
}
LANGUAGES = {"", "console", "sh", "yaml", "json", "python", "sql", "dockerfile", "mermaid"}
SHELL_WORDS = {"cat", "chmod", "cp", "install", "mkdir", "sed", "sort", "source", "umask"}
VERBS = {
    *("apply", "auth", "create", "delete", "drain", "exec", "get", "logs", "patch", "port-forward"),
    *("rollout", "scale", "taint", "top", "uncordon", "wait"),
}
HELM_VERBS = {"history", "install", "rollback", "template", "test", "uninstall", "upgrade"}
OURS = ("charts/", "docs/", "manifests/", "images/", "scripts/", "tools/")
BLOCKS = all_blocks()


def parse(words: list[str]) -> None:
    """Parse a command line of ours to its end, without running it."""
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        if not hasattr(command, "commands"):
            return
        words = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, words)
        words = [name, *rest]


def problem(words: list[str]) -> str:
    """Why a command line cannot be right; empty: nothing is known against it."""
    program, *given = words
    if missing := [word for word in words if word.startswith(OURS) and not list(ROOT.glob(word))]:
        return (
            f"no file {missing[0]}" if not missing[0].startswith("docs/examples/homes.sh") else ""
        )
    positional = [word for word in given if not word.startswith("-")]
    match program:
        case "vdi":
            try:
                parse(words)
            except (ClickException, typer.Exit) as error:
                return f"{words}: {error}"
        case "make":
            targets = re.findall(r"^([a-z][\w.-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            unknown = [word for word in positional if "=" not in word and word not in targets]
            return f"no target {unknown[0]}" if unknown else ""
        case "kubectl" | "helm":
            known = VERBS if program == "kubectl" else HELM_VERBS
            return "" if known & set(given) else f"no verb of {program}: {words}"
        case ".venv/bin/python" | "python":
            return "" if importlib.util.find_spec(given[1]) else f"no module {given[1]}"
        case _:
            known = NOT_RUN.keys() | SHELL_WORDS
            return (
                ""
                if program in known or program.startswith(OURS)
                else f"{program} needs a reason in NOT_RUN"
            )
    return ""


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in {"sh", "console"}], ids=str)
def test_commands_of_a_block_exist(block: Block) -> None:
    typed = list(commands(block))
    assert typed, "no command: a console block has `$ ` before each"
    assert not [found for words in typed if (found := problem(words))]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_of_a_block_is_valid(block: Block) -> None:
    for document in yaml.safe_load_all(block.text):
        possible = readings(document)
        found = [errors(given) for given in possible]
        assert [] in found or (
            not possible and NOT_OURS.keys() & {*document, *document.get("spec", ())}
        ), found


def test_each_block_has_a_language_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    # Else a diagram.
    untyped = [block for block in BLOCKS if not block.language and block.text.isascii()]
    assert not [str(block) for block in untyped if block.text.startswith(("vdi ", "$ "))]


def test_tables_of_this_file_are_true() -> None:
    for page, test in RUN:
        assert page.rpartition("/")[2] in (ROOT / test).read_text(), f"{test} does not read {page}"
    started = {
        words[0]
        for block in BLOCKS
        if block.language in {"sh", "console"}
        for words in commands(block)
    }
    assert started >= NOT_RUN.keys() | SHELL_WORDS


@pytest.mark.parametrize(
    "line",
    [
        "vdi session opne alice",
        "vdi session open",
        "vdi session share first bob@example.com --role owner",
        "vdi doctor --explain",
        "make image",
        "kubectl aply -f docs/examples/session.yaml",
        "kubectl apply -f docs/examples/sessions.yaml",
        "python -m bench.nothing",
        "frobnicate",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    [words] = commands(Block("page", 1, "sh", line))
    assert problem(words)


@pytest.mark.parametrize(
    "text",
    [
        "spec: {recording: {mode: Sometimes}}",
        "gateway: {portl: {name: X}}",
        "volumes: [{name: a, mount: /a}]",
        "apiVersion: vdi.kasm.io/v1alpha1\nkind: VDIPool\nspec: {replicas: two}",
    ],
)
def test_a_wrong_object_is_found(text: str) -> None:
    assert [] not in [errors(given) for given in readings(yaml.safe_load(text))]
