"""What has been: each session's life, each run of it, who used how much. Derived from what is watched; never asked for.

`snapshot` reads a session object, `derive` says what a snapshot changes in the rows (both pure), `recorder` writes.
"""
