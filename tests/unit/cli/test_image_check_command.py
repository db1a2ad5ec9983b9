"""`vdi image check` before anything is started."""

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template


def test_a_name_that_is_no_template_says_how_to_name_an_image(vdi: Vdi) -> None:
    ran = vdi("image", "check", "nginx")
    assert ran.code == 2
    assert "there is no template nginx: vdi template ls lists them" in ran.err
    assert "docker.io/library/nginx:1" in ran.err


def test_a_time_limit_that_cannot_be_read_is_named(vdi: Vdi) -> None:
    ran = vdi("image", "check", "cad", "--timeout", "soon")
    assert ran.code == 2 and "--timeout: 'soon'" in ran.err


def test_a_second_check_is_refused_and_deletes_nothing(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    fake.put(SESSIONS, a_session("vdi-image-check"))
    ran = vdi("image", "check", "cad")
    assert ran.code == 1 and "another check is running. If it was killed: kubectl" in ran.err
    assert "DELETE" not in {method for method, _ in fake.requests}
