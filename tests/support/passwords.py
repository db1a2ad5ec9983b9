"""Hashes of passwords that cost nothing."""

from argon2 import PasswordHasher

# As weak as argon2 goes: the gateway's own takes 30 ms, and hashes one for unknown users when it starts.
HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
