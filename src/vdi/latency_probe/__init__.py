"""The latency probe: a client that decodes a desktop's stream and measures how fast the picture
follows a key.
"""
