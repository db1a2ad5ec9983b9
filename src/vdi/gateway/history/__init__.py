"""What has been: each session's life, each run of it, who used how much. Derived from what is watched; never asked for.

`sighting` reads a session object, `derive` says what a sighting changes in the rows (both pure), `recorder` writes.
"""
