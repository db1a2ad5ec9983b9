"""Values for Kasm's chart: rendered from options, checked, carried over to the next generation.
Pure.
"""
