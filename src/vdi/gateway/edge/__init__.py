"""Access to desktops from a browser: entering, the check of every request, the waiting page, and
the end of access.
"""
