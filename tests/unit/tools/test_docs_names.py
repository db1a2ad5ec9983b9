"""Pages name files, functions and members that the repository has."""

import pytest

from tools.docs_names import Code, dead_names
from tools.docs_site import dead_names_of_pages

CODE = Code(
    files=frozenset({"pool.py", "session/pool.py", "docs/values.md"}),
    words=frozenset({"plan_pool", "is_ready", "Pool"}),
    dotted=frozenset({"vdi.kasm.io"}),
    modules={"session.pool": frozenset({"plan_pool"}), "vdi.session.pool": frozenset({"plan_pool"})},
    packages=frozenset({"vdi", "vdi.session"}),
)


@pytest.mark.parametrize(
    "text",
    [
        "`session/pool.py`, `pool.py`, `docs/values.md`",
        "`plan_pool()` and `Pool.is_ready`",
        "`vdi.session.pool.plan_pool`, `session.pool`",
        "`vdi.kasm.io`, `vdi.example.com`, `values.yaml`, `spec.nodeName`, `.spec.pool_of`",
        "gone_name, session/gone.py",
        "```\nsession.pool.plan_pool(now) gone_name\n```",
    ],
)
def test_names_that_are_there_or_not_ours_are_passed(text: str) -> None:
    assert list(dead_names("docs/design/pools.md", text, CODE)) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("`session/gone.py`", "session/gone.py"),
        ("`docs/gone.md`", "docs/gone.md"),
        ("`plan_gone`", "plan_gone"),
        ("`Pool.is_gone`", "Pool.is_gone"),
        ("`session.pool.gone`", "session.pool.gone"),
        ("`vdi.session.gone`", "vdi.session.gone"),
        ("```\nnow: session.pool.gone(now)\n```", "session.pool.gone"),
    ],
)
def test_a_name_that_the_code_does_not_have_is_found_with_its_line(text: str, name: str) -> None:
    lines = text.splitlines()
    number = next(number for number, line in enumerate(lines, 1) if name in line)
    assert list(dead_names("docs/design/pools.md", text, CODE)) == [(number, name)]


def test_pages_for_users_name_options_of_other_programs() -> None:
    text = "`root_squash` and `Pool.is_gone`"
    assert list(dead_names("docs/homes.md", text, CODE)) == [(1, "Pool.is_gone")]


def test_no_page_names_what_is_not_there() -> None:
    assert dead_names_of_pages() == []
