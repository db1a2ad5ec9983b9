"""How the commands of `vdi kasm` read and write files: YAML in, and out whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.new_file import NewFileError, new_file

STDIN = "-"


def read_values(file: Path) -> dict[str, Any]:
    """One YAML document that is a mapping; an empty file is an empty one. `-` is stdin."""
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == STDIN else file.read_text()
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: {error}", COULD_NOT_LOOK) from error
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise CliError(f"{file} is not valid YAML: {error.problem}{where}", USAGE) from error
    except yaml.YAMLError as error:
        raise CliError(f"{file} is not a single YAML document", USAGE) from error
    if found is None:
        return {}
    if not isinstance(found, dict) or any(not isinstance(key, str) for key in found):
        raise CliError(f"{file} has no values: allowed: a mapping, key by key", USAGE)
    return found


def write_new(file: Path, text: str, *, private: bool = False) -> None:
    """All of it or nothing; never over a file that exists. `private`: only its owner may read it."""
    if file.exists():
        raise CliError(f"{file} already exists; name another file, or remove it", USAGE)
    left = memoryview(text.encode())
    try:
        with new_file(file) as stream:
            while left:
                left = left[stream.write(left) :]
            if not private:
                with suppress(PermissionError):  # some file systems have no modes
                    os.fchmod(stream.fileno(), 0o644)
    except NewFileError as error:
        raise CliError(f"{error}; name another file") from error
    except OSError as error:
        raise CliError(f"{file}: {error}") from error
