"""What the gateway does with a running desktop: requests to its agent, recordings, software agents,
transfers, and how it is shown. Who gets in is decided in `edge`.
"""
