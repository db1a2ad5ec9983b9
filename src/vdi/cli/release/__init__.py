"""What `vdi install`, `upgrade` and `uninstall` share."""
