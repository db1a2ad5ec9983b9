"""GPU sharing by time-slicing: state, configuration, findings and plans. Pure: no I/O, no clock."""
