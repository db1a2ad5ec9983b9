"""Blender starts with its scene: without the splash screen, which at the first start is a form for
settings.
"""

import bpy


def register() -> None:
    """Called by Blender at each start."""
    bpy.context.preferences.view.show_splash = False
