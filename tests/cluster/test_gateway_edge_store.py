"""Grants on both databases: a real PostgreSQL, and SQLite in a file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, insert
from sqlalchemy.util import await_only

from support.postgres import postgres_server, postgres_url
from support.variants import first_of
from unit.gateway.history_stage import open_database
from vdi.api.session import Role
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import find_names
from vdi.gateway.store.logins import Grant, GrantStore, Login, LoginStore, grants

__all__ = ["postgres_server", "postgres_url"]
NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, UTC)


@pytest.fixture(params=first_of(["postgresql", "sqlite"]))
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite+aiosqlite:///{tmp_path}/vdi.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    async with open_database(url) as database:
        yield database


def a_grant(number: int, **fields: object) -> Grant:
    grant = Grant(
        id=f"grant-{number}",
        session_uid="uid-1",
        user="alice@example.com",
        groups=frozenset({"b", "a"}),
        role=Role.VIEWER,
        login_id="login-1",
        created=NOW + timedelta(seconds=number),
        expires=NOW + timedelta(days=7),
    )
    return msgspec.structs.replace(grant, **fields)


async def test_grant_is_stored_unchanged(database: Database) -> None:
    store = GrantStore(database)
    await store.add(a_grant(1), "hash-1")
    assert await store.by_handle("hash-1") == a_grant(1)
    assert await store.by_handle("hash-2") is None


async def test_open_grants_are_filtered_by_field(database: Database) -> None:
    store = GrantStore(database)
    others = {"session_uid": "uid-2", "user": "bob@example.com", "login_id": "login-2"}
    await store.add(a_grant(1), "1")
    for number, (name, value) in enumerate(others.items(), start=2):
        await store.add(a_grant(number, **{name: value}), str(number))
    assert len(await store.open()) == 4
    for name, value in others.items():
        (found,) = await store.open(**{name: value})
        assert getattr(found, name) == value
    assert await store.open(session_uid="uid-2", user="bob@example.com") == []


async def test_grant_is_ended_once(database: Database) -> None:
    store = GrantStore(database)
    await store.add(a_grant(1), "1")
    await store.add(a_grant(2), "2")
    answers = await asyncio.gather(
        *(store.end(["grant-1", "grant-9"], NOW, f"reason-{index}") for index in range(8))
    )
    assert sorted(map(sorted, answers)) == [[]] * 7 + [["grant-1"]]
    (ended,) = await store.ended_since(NOW)
    assert (ended.ended, ended.reason) == (NOW, f"reason-{answers.index({'grant-1'})}")
    assert [one.id for one in await store.open()] == ["grant-2"]
    assert await store.ended_since(NOW + timedelta(microseconds=1)) == []
    assert await store.end([], NOW, "x") == set()


async def test_old_grants_are_removed(database: Database) -> None:
    store = GrantStore(database)
    await store.add(a_grant(1, expires=NOW - timedelta(days=8)), "1")
    await store.add(a_grant(2), "2")
    await store.add(a_grant(3), "3")
    await store.end(["grant-2"], NOW - timedelta(days=8), "x")
    await store.forget_before(NOW - timedelta(days=7))
    assert [await store.by_handle(one) is None for one in ("1", "2", "3")] == [True, True, False]


async def test_grants_above_the_parameter_limit_are_ended(database: Database) -> None:
    """PostgreSQL's protocol has 32,767, and so many has SQLite as it comes; Debian's has more."""
    if database.is_sqlite:
        event.listen(database.engine.sync_engine, "connect", take_few_values)
        await database.close()  # the pool connects again
    first = msgspec.structs.asdict(a_grant(0)) | {"groups": "[]", "role": "viewer"}
    rows = [
        first | {"id": f"grant-{number}", "handle_hash": str(number)} for number in range(40_000)
    ]
    async with database.begin() as connection:
        await connection.execute(insert(grants), rows)
    ids = [row["id"] for row in rows]
    assert await GrantStore(database).end(ids, NOW, "x") == set(ids)
    assert await GrantStore(database).open() == []
    await LoginStore(database).end(Login, ids, NOW)
    async with database.connect() as connection:
        assert await find_names(connection, ids) == {}


def take_few_values(connection: Any, _record: object) -> None:
    """SQLite's own limit, on a connection that is made in the thread of its driver."""
    driver = connection.driver_connection
    await_only(driver._execute(driver._conn.setlimit, sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766))
