"""Whether a Kasm that is installed is whole: items of a checklist. Pure."""
