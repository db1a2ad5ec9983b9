"""What becomes of findings: their order, the report, the record of a run, the page of codes. Pure."""
