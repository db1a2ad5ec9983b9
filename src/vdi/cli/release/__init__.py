"""What `vdi install`, `upgrade`, `rollback` and `uninstall` share."""
