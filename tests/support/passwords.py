"""Hashes of passwords that cost nothing, and the file of local users that tests put into a
Secret.
"""

from collections.abc import Mapping
from functools import reduce

from argon2 import PasswordHasher

from vdi.gateway.login.local_users import LocalUser, change_user

# As weak as argon2 goes: the gateway's own takes 30 ms, and hashes one for unknown users when it
# starts.
HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def users_file(users: Mapping[str, LocalUser]) -> str:
    """The file with these users, as `vdi gateway user add` writes it."""
    return reduce(lambda text, user: change_user(text, user, users[user]), users, "")
