"""A file that appears whole or not at all, also where there are no hard links."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from vdi.new_file import NewFileError, new_file


@pytest.fixture(params=["hard links", "none"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "none":  # as on exFAT
        monkeypatch.setattr(os, "link", refuse)


def test_it_has_its_name_when_it_is_whole_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    with new_file(file) as stream:
        stream.write(b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_created_meanwhile_stays(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with pytest.raises(NewFileError, match="a was created in the meantime"), new_file(file):
        file.write_text("somebody else's")
    assert file.read_text() == "somebody else's"
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_that_cannot_be_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(NewFileError, match="cannot be written: File name too long"),
        new_file(tmp_path / ("a" * 250)),
    ):
        pass
