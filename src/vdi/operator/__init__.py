"""The operator: turns sessions into desktops. What may be decided without looking is decided in `vdi.session`."""
