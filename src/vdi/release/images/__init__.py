"""Image archives on the nodes of a cluster that reaches no registry. `nodes` is pure, `load` does the I/O."""
