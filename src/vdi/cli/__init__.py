"""The command line: a module per noun parses options, calls one function of another package, and
prints the result.

`main` mounts the nouns.
"""
