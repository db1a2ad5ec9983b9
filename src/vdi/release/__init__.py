"""Our own chart on a cluster: what stands in its way, what would change, install, upgrade,
uninstall.

`preflight`, `diff` and `crds` are pure; `gather`, `carry_out` and `remove` do the I/O.
"""
