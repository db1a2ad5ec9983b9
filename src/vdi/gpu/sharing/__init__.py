"""How GPUs are shared by time-slicing: the state, what is wrong with it, what to change. Pure: no I/O, no clock."""
