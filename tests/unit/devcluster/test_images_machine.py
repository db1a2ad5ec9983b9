"""The machine's pip and apt settings: read from wherever they are, handed to a build, none kept."""

from pathlib import Path

import pytest

from vdi.devcluster.host_settings import (
    apt_settings,
    debian_sources,
    pip_settings,
    prepare_apt,
    prepare_home,
)


def test_the_environment_wins_over_later_files_over_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first.conf", tmp_path / "second.conf"
    first.write_text("[global]\ntimeout = 1\nretries = 1\nindex_url = one\n")
    second.write_text("[install]\nretries = 2\nindex-url = two\n")

    settings = pip_settings(
        {"PIP_INDEX_URL": "three", "OTHER": "x"}, [first, second, tmp_path / "absent.conf"]
    )

    assert settings == {"timeout": "1", "retries": "2", "index-url": "three"}


def test_a_percent_sign_in_a_password_is_no_interpolation(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nproxy = http://me:p%40ss@proxy\n")

    assert pip_settings({}, [file]) == {"proxy": "http://me:p%40ss@proxy"}


@pytest.fixture
def machine(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """A machine with a private index, a certificate authority and a folder of wheels."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "ca.pem").write_text("CA")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine index login me password secret\n")
    env = {
        "PIP_CERT": str(tmp_path / "ca.pem"),
        "PIP_INDEX_URL": "https://me:secret@index.example/simple",
        "PIP_FIND_LINKS": f"{tmp_path / 'wheels'} {tmp_path / 'absent'} https://wheels.example/",
        "XDG_CONFIG_DIRS": str(tmp_path),
        "https_proxy": "http://proxy.example:3128",
        "no_proxy": "localhost",
    }
    return env, home


def test_home_of_the_build_holds_settings_that_work_inside(
    machine: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    env, home = machine
    folders = prepare_home(tmp_path / "root", env, home)
    text = (tmp_path / "root/.config/pip/pip.conf").read_text()

    assert "index-url = https://me:secret@index.example/simple\n" in text
    assert "cert = /root/ca.crt\n" in text
    assert "find-links = /root/find-links-0\n    https://wheels.example/\n" in text
    assert (tmp_path / "root/ca.crt").read_text() == "CA"
    assert (tmp_path / "root/.netrc").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700
    assert folders.mounts == (
        (tmp_path / "root", "/root"),
        (tmp_path / "wheels", "/root/find-links-0"),
    )


def test_what_must_not_stay_in_an_image_is_named(
    machine: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    env, home = machine
    private = prepare_home(tmp_path / "root", env, home).private

    assert "https://me:secret@index.example/simple" in private
    assert "http://proxy.example:3128" in private
    assert "localhost" not in private


def test_sources_are_the_machines_servers_with_our_suite() -> None:
    targets = """\
http://mirror.example/debian/ trixie main Debian
http://mirror.example/debian/ trixie-updates main Debian
http://mirror.example/debian/ trixie contrib Debian
http://mirror.example/debian-security/ trixie-security main Debian
http://other.example/apt/ stable main Other
"""
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"

    assert debian_sources(targets, "bookworm") == [
        f"deb {key} http://mirror.example/debian/ bookworm main",
        f"deb {key} http://mirror.example/debian/ bookworm-updates main",
        f"deb {key} http://mirror.example/debian-security/ bookworm-security main",
    ]


def test_apt_settings_are_those_of_the_way_to_the_servers() -> None:
    dump = """\
APT::Architecture "amd64";
Acquire::cdrom::mount "/media/cdrom/";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::http::Timeout "";
Acquire::Check-Valid-Until "false";
Acquire::https::CAInfo "/opt/ca.pem";
"""
    assert apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


def test_the_apt_folder_has_certificates_that_apt_can_read(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("CA")
    folders = prepare_apt(tmp_path / "apt", ["deb http://mirror.example/ x main"], "", ca)

    assert (
        tmp_path / "apt/sources.list.d/machine.list"
    ).read_text() == "deb http://mirror.example/ x main\n"
    assert (
        'Acquire::https::CAInfo "/etc/apt/ca.crt";'
        in (tmp_path / "apt/apt.conf.d/machine").read_text()
    )
    assert (tmp_path / "apt/ca.crt").read_text() == "CA"
    assert folders.mounts == ((tmp_path / "apt", "/etc/apt"),)
