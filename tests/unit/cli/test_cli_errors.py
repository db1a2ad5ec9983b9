"""What goes wrong between the person and the cluster: one line in words, and the exit code that
says of which kind.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_template
from vdi.cli.main import NOUNS, load_noun
from vdi.cli.options import KubeConnection, program_name


def test_an_api_server_that_is_not_there_is_named(
    vdi: Vdi, fake: FakeCluster, tmp_path: Path
) -> None:
    nowhere = tmp_path / "elsewhere"
    nowhere.write_text(
        fake.kubeconfig(tmp_path).read_text().replace(fake.url, "http://127.0.0.1:1")
    )
    ran = vdi("session", "ls", "--kubeconfig", str(nowhere))
    assert ran.code == 3
    assert "http://127.0.0.1:1" in ran.err and str(nowhere) in ran.err


@pytest.mark.parametrize(
    "words", [["--kubeconfig", "/nowhere/config"], ["--context", "production"]]
)
def test_a_kubeconfig_or_context_that_does_not_exist_is_named(vdi: Vdi, words: list[str]) -> None:
    ran = vdi("session", "ls", *words)
    assert (ran.code, words[1] in ran.err) == (3, True)


DENIED = 'x is forbidden: User "eve" cannot list resource "%s" in API group "vdi.kasm.io" %s'
NO_CRDS = "the server could not find the requested resource"


@pytest.mark.parametrize(
    ("command", "method", "path", "status", "said", "shown"),
    [
        ("session ls", "GET", SESSIONS, 403, DENIED % ("vdisessions", 'in the namespace "vdi-sessions"'),
         "eve may not list vdisessions in namespace vdi-sessions"),
        ("template ls", "GET", TEMPLATES, 403, DENIED % ("vditemplates", "at the cluster scope"),
         "eve may not list vditemplates in the whole cluster"),
        ("session create -t x --user a@b.cd", "POST", SESSIONS, 403, "spec.user must be the requesting user",
         "spec.user must be the requesting user"),
        ("session ls", "GET", SESSIONS, 401, "Unauthorized", "rejects the credentials of kubeconfig"),
        ("session ls", "GET", SESSIONS, 404, NO_CRDS, "the vdi CRDs are not on this cluster"),
        ("session show x", "GET", f"{SESSIONS}/x", 404, NO_CRDS, "helm upgrade --install vdi"),
        ("session rm x", "GET", f"{SESSIONS}/x", 404, NO_CRDS, "helm upgrade --install vdi"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_api_server_says_what_is_missing(
    vdi: Vdi,
    fake: FakeCluster,
    command: str,
    method: str,
    path: str,
    status: int,
    said: str,
    shown: str,
) -> None:
    fake.put(TEMPLATES, a_template("x"))
    reason = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}[status]
    fake.refuse(method, path, status, reason=reason, message=said, details={})
    ran = vdi(*command.split())
    assert (ran.code, shown in ran.err) == (3, True), ran.err


def test_an_unexpected_error_is_one_line_and_a_hint(
    vdi: Vdi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KubeConnection, "run", lambda *_: 1 / 0)
    ran = vdi("session", "ls")
    assert ran.code == 1
    assert ran.err.startswith("Error: unexpected ZeroDivisionError: division by zero\n")
    assert "Traceback" not in ran.err
    assert "--debug" in ran.err


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(vdi: Vdi, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(KubeConnection, "run", lambda *_: 1 / 0)
    if how == "variable":
        monkeypatch.setenv("VDI_DEBUG", "1")
    ran = vdi(*(["--debug"] if how == "flag" else []), "session", "ls")
    assert "Traceback" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["session", "create"],
        ["session", "ls", "-o", "xml"],
        ["session", "logs", "x", "--tail", "-1"],
    ],
)
def test_wrong_usage_is_exit_code_2(vdi: Vdi, words: list[str]) -> None:
    assert vdi(*words).code == 2


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/usr/bin/vdi", "vdi"),
        ("/usr/bin/kubectl-vdi", "kubectl vdi"),
        ("kubectl-vdi.exe", "kubectl vdi"),
        ("", "vdi"),
    ],
)
def test_a_plugin_of_kubectl_is_called_as_it_was_typed(argv0: str, name: str) -> None:
    assert program_name(argv0) == name


COMMANDS = [
    [noun, verb]
    for noun in ("session", "template", "pool", "home")
    for verb in load_noun(noun).commands
]
COMMANDS.remove(["template", "new"])  # it asks no cluster


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_of_the_cluster_name_its_namespace(vdi: Vdi, command: list[str]) -> None:
    assert "--namespace" in vdi(*command, "--help").out


def every_command(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    found = getattr(command, "commands", {})
    for name, child in found.items():
        yield from every_command(child, [*words, name])
    if not found:
        yield words, command


@pytest.mark.parametrize("noun", NOUNS)
def test_every_command_has_a_description_and_an_example(noun: str) -> None:
    for words, command in every_command(load_noun(noun), [noun]):
        assert command.help, words
        assert f"\n  vdi {' '.join(words)}" in command.epilog, words


# Commands that print a log, a script, or a file in its own format.
STREAMS = {
    "session logs", "cluster logs", "operator run", "gateway run", "completion", "cluster kubeconfig",
    "kasm values render", "template new",
}  # fmt: skip


@pytest.mark.parametrize("noun", NOUNS)
def test_every_command_without_a_stream_prints_json(noun: str) -> None:
    for words, command in every_command(load_noun(noun), [noun]):
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--output" in options) is (" ".join(words) not in STREAMS), words


def test_the_root_s_help_names_every_noun_and_loads_none_of_them() -> None:
    code = (
        "import sys; from vdi.cli.main import main; main(['--help']); print({'httpx', 'msgspec'} &"
        " set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {noun} " in ended.stdout for noun in NOUNS)
    assert ended.stdout.splitlines()[-1] == "set()"


def test_refused_fields_are_named_and_a_pattern_only_without_words(
    vdi: Vdi, fake: FakeCluster
) -> None:
    user = "Invalid value: \"alice\": spec.user in body should match '^\\S+@\\S+\\.\\S+$'"
    server = "Invalid value: \"a b\": spec.server in body should match '^\\S+$'"
    causes = [
        {"field": "spec.user", "reason": "FieldValueInvalid", "message": user},
        {"field": "spec.server", "reason": "FieldValueInvalid", "message": server},
        {
            "field": "spec.user",
            "reason": "FieldValueInvalid",
            "message": "'alice' is not an e-mail address",
        },
    ]
    fake.put(TEMPLATES, a_template("x"))
    fake.refuse(
        "POST",
        SESSIONS,
        422,
        reason="Invalid",
        message="is invalid",
        details={"name": "x", "causes": causes},
    )
    ran = vdi("session", "create", "-t", "x", "--user", "alice")
    assert ran.code == 2
    assert f"  spec.server: {server}\n  spec.user: 'alice' is not an e-mail address" in ran.err
    assert ran.err.count("spec.user") == 1
