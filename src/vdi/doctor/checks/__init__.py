"""The checks: pure functions from a Snapshot to findings, each named for what it looks at.

A check says which kinds it needs. Where one of them could not be read it does not run, and that is said: never a pass.
"""
