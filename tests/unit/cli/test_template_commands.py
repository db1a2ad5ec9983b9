"""`vdi template new`, and `vdi template try` before anything is started."""

from pathlib import Path

import msgspec
import pytest
import yaml

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template
from vdi.api.template import VDITemplate


def test_new_prints_a_template_of_the_image(vdi: Vdi) -> None:
    ran = vdi("template", "new", "cad-lab", "--from-image", "registry.example.com/lab:1")
    template = msgspec.convert(yaml.safe_load(ran.out), VDITemplate)
    assert (template.metadata.name, template.spec.image) == (
        "cad-lab",
        "registry.example.com/lab:1",
    )
    assert (template.spec.display_name, template.spec.resources.default_gpu) == ("Cad lab", 0)
    web = yaml.safe_load(
        ran.out.replace("  # protocol: Web\n  # port: 8888", "  protocol: Web\n  port: 8888")
    )
    assert (web["spec"]["protocol"], web["spec"]["port"]) == ("Web", 8888)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["new", "Lab", "--from-image", "x:1"],
            "the template's name is 'Lab'; allowed: lower-case letters",
        ),
        (["try", "cad", "--timeout", "soon"], "--timeout: 'soon'"),
    ],
)
def test_unusable_words_are_named(vdi: Vdi, words: list[str], message: str) -> None:
    ran = vdi("template", *words)
    assert ran.code == 2 and message in ran.err, ran.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: VDISession", "is not a VDITemplate of vdi.kasm.io/v1alpha1"),
        (
            (
                "{apiVersion: vdi.kasm.io/v1alpha1, kind: VDITemplate, metadata: {name: x}, spec:"
                " {port: x}}"
            ),
            "$.spec.port",
        ),
        ("a: 1\n---\nb: 2", "is not a single YAML document"),
    ],
)
def test_file_without_a_template_is_refused(
    vdi: Vdi, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    ran = vdi("template", "try", str(file))
    assert ran.code == 2 and message in ran.err, ran.err


def test_missing_template_names_those_there_are(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    ran = vdi("template", "try", "nginx")
    assert (
        ran.code == 1
        and ran.err.strip().endswith("cad")
        and "there is no template nginx; " in ran.err
    )


def test_second_try_is_refused_and_deletes_nothing(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    fake.put(SESSIONS, a_session("vdi-template-try"))
    ran = vdi("template", "try", "cad")
    assert ran.code == 1 and "another try is running. If it was killed: kubectl" in ran.err
    assert "DELETE" not in {method for method, _ in fake.requests}
