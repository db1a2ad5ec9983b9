"""Work with running desktops: requests to their agents, recordings, software agents, transfers, and
how a desktop is shown. Who gets in is decided in `edge`.
"""
