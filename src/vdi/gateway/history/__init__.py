"""History of sessions and their runs, derived from what the gateway watches: rules, writers,
reports and exports.
"""
