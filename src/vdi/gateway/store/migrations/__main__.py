"""`python -m vdi.gateway.store.migrations`: make the one revision anew from the tables, while nothing is released."""

import hashlib
import subprocess
import sys
from typing import Literal

from alembic.autogenerate import api as autogenerate
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from vdi.gateway.store.base import Instant, metadata
from vdi.gateway.store.migrations import FOLDER, import_tables

INITIAL = FOLDER / "versions" / "0001_initial.py"

_TEMPLATE = '''"""All tables. Made by `python -m vdi.gateway.store.migrations`; not edited by hand."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
{body}
'''


def render() -> str:
    """The text of the initial revision."""
    import_tables()
    with create_engine("sqlite://").connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"target_metadata": metadata, "render_item": _render_item, "sqlalchemy_module_prefix": "sa."},
        )
        script = autogenerate.produce_migrations(context, metadata)
        if not isinstance(script.upgrade_ops, ops.UpgradeOps):
            raise TypeError(f"one list of operations was expected, not {script.upgrade_ops!r}")
        body = autogenerate.render_python_code(script.upgrade_ops, render_item=_render_item, migration_context=context)
    body = "\n".join(line for line in body.splitlines() if not line.strip().startswith("#"))
    digest = hashlib.sha256(body.encode()).hexdigest()[:8]
    return _formatted(_TEMPLATE.format(revision=f"0001_{digest}", body=body))


def _render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Our own type by what it is in the database: a revision must not change when our code does."""
    if kind == "type" and isinstance(item, Instant):
        return "sa.DateTime(timezone=True)"
    return False


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(INITIAL), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    INITIAL.write_text(render())
    print(INITIAL)  # noqa: T201 -- a command's answer
