"""Whether a template's image can be a desktop: starts it once as the operator would, and judges
what was observed.
"""
