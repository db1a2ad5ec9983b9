"""Sphinx's configuration for the documentation's site: `make docs` builds it into build/docs."""

from vdi.version import package_version

project = "VDI"
release = version = package_version()
extensions = ["myst_parser", "tools.docs_site"]
exclude_patterns = ["examples"]

# Broken links, anchors and pictures, and pages outside the navigation, are warnings; `make docs`
# makes them errors.
nitpicky = True
myst_heading_anchors = 6  # `page.md#heading`, as code hosts spell it

html_theme = "furo"  # fonts, scripts and the search index come with the pages
html_title = f"VDI {release.partition('+')[0]}"
html_show_copyright = False
html_copy_source = False
html_use_index = False
