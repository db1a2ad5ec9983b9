"""The portal: server-rendered pages, updated by server-sent events, with plain forms that work
without scripts.
"""
