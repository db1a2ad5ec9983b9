"""The operator: turns sessions into desktops. `vdi.session` decides; this package observes and
acts.
"""
