"""`vdi image check` before anything is started: what is refused, and of whom it is asked."""

import json

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import CORE, TEMPLATES, a_template

IMAGE = "registry.example.com/lab:1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cad", "--port", "8888"], "--port: for an image only; template cad sets it itself"),
        (["cad", "--scheme", "HTTPS", "--run-as-user", "7"], "--scheme, --run-as-user: for an image"),
        ([IMAGE, "--port", "8082"], "--port 8082: allowed: 1 to 65535, but not 8082, the agent's"),
        ([IMAGE, "--port", "0"], "--port 0: allowed: 1 to 65535"),
        ([IMAGE, "--health-path", "api"], "--health-path 'api': allowed: the path of a URL, such as /api"),
        ([IMAGE, "--run-as-user", "0"], "--run-as-user 0: allowed: 1 to 2147483647; never root"),
        ([":1"], "':1' is not the name of an image; allowed: registry.example.com/lab:1"),
        ([IMAGE, "--timeout", "soon"], "--timeout: 'soon'"),
    ],
)
def test_wrong_usage_is_named_with_what_is_allowed(vdi: Vdi, words: list[str], said: str) -> None:
    ran = vdi("image", "check", *words)
    assert ran.code == 2 and said in ran.err


def test_a_name_that_is_no_template_says_how_to_name_an_image(vdi: Vdi) -> None:
    ran = vdi("image", "check", "nginx")
    assert ran.code == 2
    assert "there is no template nginx: vdi template ls lists them" in ran.err
    assert "docker.io/library/nginx:latest" in ran.err


def test_an_image_without_a_desktop_is_not_started(vdi: Vdi, fake: FakeCluster) -> None:
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest"
    fake.put(TEMPLATES, a_template("mission", image=image))
    for subject, name in ((image, f"image/{image}"), ("mission", "vditemplate/mission")):
        ran = vdi("image", "check", subject, "-o", "json")
        assert ran.code == 1
        report = json.loads(ran.out)
        assert [finding["code"] for finding in report["findings"]] == ["image_unusable"]
        assert (
            "contains no desktop, only a part of Selkies" in report["findings"][0]["message"]
            and report["subject"] == name
        )
    assert "POST" not in {method for method, _ in fake.requests}


def test_without_the_right_to_make_pods_it_says_so_and_removes_nothing(vdi: Vdi, fake: FakeCluster) -> None:
    message = 'pods is forbidden: User "eve" cannot create resource "pods" in API group "" in the namespace "x"'
    fake.refuse("POST", f"{CORE}/pods", 403, reason="Forbidden", message=message)
    ran = vdi("image", "check", IMAGE)
    assert ran.code == 3 and "eve may not create pods in namespace x" in ran.err
    assert "DELETE" not in {method for method, _ in fake.requests}


def test_a_quota_is_no_fault_of_the_image(vdi: Vdi, fake: FakeCluster) -> None:
    message = 'pods "vdi-image-check-1" is forbidden: exceeded quota: small'
    fake.refuse("POST", f"{CORE}/pods", 403, reason="Forbidden", message=message)
    ran = vdi("image", "check", IMAGE)
    assert ran.code == 3
    assert "exceeded quota: small" in ran.out and "Not checked: start" in ran.out
