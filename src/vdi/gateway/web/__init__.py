"""HTTP of the gateway, without knowledge of desktops: middleware, page rendering, credentials,
event streams.
"""
