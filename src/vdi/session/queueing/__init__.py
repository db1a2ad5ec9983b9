"""The queue of sessions that wait for capacity: the order, the decisions, and the messages about
them.
"""
