"""What is written into the Secrets of PostgreSQL, Redis and coturn."""

import pytest

from vdi.gateway.server_secrets import ServerSecret, missing_entries

POSTGRESQL = ServerSecret(
    name="db", random={"password": 32}, text={"url": "postgresql+asyncpg://vdi:{password}@db/vdi"}
)


def draw(length: int) -> str:
    return "x" * length


def test_an_empty_secret_gets_values_and_texts() -> None:
    entries = missing_entries(POSTGRESQL, {}, draw)
    assert entries == {"password": "x" * 32, "url": f"postgresql+asyncpg://vdi:{'x' * 32}@db/vdi"}


def test_an_existing_password_is_kept_in_new_texts() -> None:
    existing = {
        "password": "old",
        "url": "postgresql+asyncpg://vdi:old@elsewhere/vdi",
        "note": "ours",
    }
    assert missing_entries(POSTGRESQL, existing, draw) == {
        "url": "postgresql+asyncpg://vdi:old@db/vdi"
    }


def test_nothing_is_written_where_nothing_is_missing() -> None:
    existing = {"password": "old", "url": "postgresql+asyncpg://vdi:old@db/vdi"}
    assert missing_entries(POSTGRESQL, existing, draw) == {}


@pytest.mark.parametrize("braces", ["{other}", "{}", "{{password}"])
def test_other_braces_of_a_text_stay(braces: str) -> None:
    secret = ServerSecret(name="db", random={"password": 1}, text={"conf": f"a {braces} b"})
    assert missing_entries(secret, {}, draw)["conf"] == f"a {braces} b".replace("{password}", "x")
