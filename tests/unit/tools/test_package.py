"""The package: its version is the git tag, it carries chart and manifests, and hints name it and
its extras.
"""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from support.releases import git, make_checkout
from tools.build_hook import SOURCE_VERSION, semantic_version
from vdi.version import DISTRIBUTION

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
pytestmark = pytest.mark.timeout(120)


def build(folder: Path, target: str) -> Path:
    """Build with what the development environment has: nothing is fetched."""
    made = folder / "dist"
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SETUPTOOLS_SCM", "HATCH"))
    }
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(made)]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=100)
    return max(made.iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of our files whose one commit has the tag v0.2.0-rc.1."""
    return make_checkout(tmp_path_factory.mktemp("package") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build(checkout, "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel, unpacked as pip does it."""
    folder = wheel.parent.parent.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, code: str) -> str:
    env = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd="/", env=env, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()


@pytest.mark.long
def test_the_wheel_has_the_version_of_the_tag(wheel: Path, installed: Path) -> None:
    assert wheel.name == "vdi_kubernetes-0.2.0rc1-py3-none-any.whl"
    assert run(installed, "from vdi.cli.main import main; main(['--version'])") == "vdi 0.2.0rc1"
    assert (
        run(installed, "from vdi.version import user_agent; print(user_agent('a'))") == "a/0.2.0rc1"
    )


@pytest.mark.long
def test_the_wheel_carries_chart_and_manifests_of_its_version(installed: Path) -> None:
    chart = installed / "vdi/files/charts/vdi"
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == ("0.2.0-rc.1", "0.2.0-rc.1")
    assert run(
        installed, "from vdi.release.chart import find_chart; print(find_chart().folder)"
    ) == str(chart)
    packaged = [path.relative_to(chart) for path in chart.rglob("*") if path.is_file()]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT / "charts/vdi",
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert sorted(map(str, packaged)) == sorted(filter(None, tracked.stdout.split("\0")))
    for path in (installed / "vdi/files").rglob("*.yaml"):
        assert SOURCE_VERSION not in path.read_text(), path
    assert (installed / "vdi/files/docs/use/index.md").is_file()
    assert 'version: "0.2.0-rc.1"' in (installed / "vdi/files/manifests/vdi.yaml").read_text()


@pytest.mark.long
def test_the_wheel_has_both_commands(installed: Path) -> None:
    scripts = (installed / "vdi_kubernetes-0.2.0rc1.dist-info/entry_points.txt").read_text()
    assert scripts.splitlines() == [
        "[console_scripts]",
        "kubectl-vdi = vdi.cli.main:main",
        "vdi = vdi.cli.main:main",
    ]


@pytest.mark.long
def test_an_sdist_builds_the_same_version_without_git(checkout: Path, tmp_path: Path) -> None:
    with tarfile.open(build(checkout, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    assert (
        build(tmp_path / "vdi_kubernetes-0.2.0rc1", "wheel").name
        == "vdi_kubernetes-0.2.0rc1-py3-none-any.whl"
    )


@pytest.mark.long
def test_a_clone_without_tags_builds_a_version_with_its_commit(
    checkout: Path, tmp_path: Path
) -> None:
    command = [
        "git",
        "clone",
        "--quiet",
        "--depth=1",
        "--no-tags",
        f"file://{checkout}",
        str(tmp_path / "clone"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    commit = git(checkout, "rev-parse", "--short=7", "HEAD")
    assert re.fullmatch(
        rf"vdi_kubernetes-0\.0\.1\.dev1\+unknown\.g{commit}\w*-py3-none-any\.whl",
        build(tmp_path / "clone", "wheel").name,
    )


@pytest.mark.parametrize(
    ("python", "semantic"),
    [
        ("0.2.0", "0.2.0"),
        ("0.2.0rc1", "0.2.0-rc.1"),
        ("0.2.0a3", "0.2.0-alpha.3"),
        ("0.2.1.dev5+g1234567", "0.2.1-dev.5.g1234567"),
        ("0.0.0+unknown", "0.0.0-unknown"),
        ("1", "1.0.0"),
    ],
)
def test_a_version_as_charts_write_it(python: str, semantic: str) -> None:
    assert semantic_version(python) == semantic


def test_each_install_hint_names_our_package_and_its_extra() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    files = [
        path
        for folder in ("src", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md"}
    ]
    hints = [
        (path, hint)
        for path in (*files, ROOT / "README.md")
        for hint in re.findall(
            r"(?:pip|pipx|uv tool|uv pip) install ['\"]?([a-z][\w-]*(?:\[[\w,-]+\])?)",
            path.read_text(),
        )
    ]
    assert len(hints) >= 4
    for path, hint in hints:
        name, _, extras = hint.partition("[")
        assert name == DISTRIBUTION, path
        assert set(extras.rstrip("]").split(",")) <= {"", *PROJECT["optional-dependencies"]}, path


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=;]", requirement)[0].lower() for requirement in requirements}


def test_the_command_line_needs_no_library_of_the_servers() -> None:
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]).isdisjoint(
        names(extras["operator"]) | names(extras["gateway"])
    )


WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
from importlib.metadata import packages_distributions

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if path is None and EXTRAS.intersection(map(str.lower, DISTRIBUTIONS.get(name, ()))):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

DISTRIBUTIONS, EXTRAS = packages_distributions(), set(sys.argv[1:])
sys.meta_path.insert(0, NotInstalled())
import vdi.cli
modules = [module.name for module in pkgutil.walk_packages(vdi.cli.__path__, "vdi.cli.")]
for module in modules:
    importlib.import_module(module)
print(len(modules))
"""


def test_every_command_loads_without_extras() -> None:
    """The first of the README's commands come from such a one: `vdi install`, `vdi gateway user
    add`.
    """
    extras = [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    missing = names(extras) - names(PROJECT["dependencies"]) - {DISTRIBUTION}
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *missing]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
