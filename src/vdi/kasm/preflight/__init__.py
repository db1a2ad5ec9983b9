"""What a cluster has to have before Kasm is installed: items of a checklist. Pure."""
