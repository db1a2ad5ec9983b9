"""Where the chart is, and in which state a failure leaves the release."""

import os
from pathlib import Path

import pytest

from unit.release.test_release_preflight import a_revision
from vdi.helm.arguments import Place
from vdi.helm.releases import Revision
from vdi.release.apply import describe_state
from vdi.release.chart import RefusedError, find_chart, version_numbers


def test_the_chart_beside_the_sources_or_the_one_that_is_named(tmp_path: Path) -> None:
    found = find_chart()
    assert (found.folder / "values.yaml").is_file() and found.version
    with pytest.raises(RefusedError, match=r"there is no Chart\.yaml in it; allowed: --chart DIR"):
        find_chart(tmp_path)
    (tmp_path / "Chart.yaml").write_text("name: other\n")
    with pytest.raises(RefusedError, match="name is 'other', not 'vdi'"):
        find_chart(tmp_path)


def test_a_chart_yaml_that_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_bytes(b"name: \xff")
    with pytest.raises(RefusedError, match=r"Chart\.yaml cannot be read: 'utf-8' codec"):
        find_chart(tmp_path)
    (tmp_path / "Chart.yaml").unlink()
    os.mkfifo(tmp_path / "Chart.yaml")
    with pytest.raises(RefusedError, match=r"there is no Chart\.yaml in it"):
        find_chart(tmp_path)


def test_without_a_chart_it_says_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.release.chart._PLACES", (tmp_path / "files", tmp_path))
    with pytest.raises(
        RefusedError,
        match=r"does not include it.*allowed: --chart DIR, the folder of the chart vdi",
    ):
        find_chart()


def test_versions_are_compared_as_numbers() -> None:
    assert version_numbers("0.10.0") > version_numbers("0.9.1-rc.1")


def history(*states: str) -> list[Revision]:
    """The newest first."""
    return [a_revision(len(states) - number, state) for number, state in enumerate(states)]


ROLLED_BACK = [
    a_revision(4, description="Rollback to 2"),
    a_revision(3, "failed"),
    a_revision(2, "superseded"),
]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((), (), "Nothing of vdi remains"),
        (
            history("deployed"),
            history("deployed"),
            "Revision 1 of vdi is deployed as before; nothing was changed",
        ),
        (
            history("deployed"),
            history("pending-upgrade", "deployed"),
            "left pending-upgrade. To fix it: helm rollback vdi 1 --namespace vdi-system --wait",
        ),
        ((), history("pending-install"), "left pending-install. To fix it: vdi uninstall"),
        ((), history("failed"), "Revision 1 of vdi is failed"),
        (
            history("deployed"),
            history("failed", "failed", "deployed"),
            "may be between the two. To fix it: helm rollback vdi 1 --namespace vdi-system --wait",
        ),
        (
            history("deployed", "superseded"),
            ROLLED_BACK,
            "rolled back: revision 4 of vdi is deployed, with the content of revision 2",
        ),
    ],
)
def test_in_which_state_a_failure_leaves_it(
    before: list[Revision], after: list[Revision], said: str
) -> None:
    assert said in describe_state("vdi", Place("vdi-system"), before, after)


def test_suggested_commands_name_the_same_release() -> None:
    place = Place("lab", Path("/tmp/my kubeconfig"), "prod")
    said = describe_state("lab", place, (), history("pending-install"))
    assert said.endswith(
        "To fix it: vdi uninstall --release lab --namespace lab --kubeconfig '/tmp/my kubeconfig'"
        " --context prod"
    )
