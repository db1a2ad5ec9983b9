"""The doctor: problems of a cluster with their cause, their evidence and the command that fixes
them.

`collect` reads a snapshot, `checks` and `report` are pure functions of it, and `probe` tries what
no object shows. `vdi doctor`, the gateway's doctor page, `vdi kasm diagnose` and `vdi template try`
use it.
"""
