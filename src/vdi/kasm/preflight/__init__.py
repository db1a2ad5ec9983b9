"""Requirements on a cluster before Kasm is installed: items of a checklist. Pure."""
