"""A backup's file, without a database."""

from pathlib import Path

import pytest

from vdi.kasm.backup import _put_in_place
from vdi.kasm.errors import KasmRefusedError


def test_a_file_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 250)
    with (
        pytest.raises(KasmRefusedError, match="cannot be written: File name too long; name another"),
        _put_in_place(file),
    ):
        pass
