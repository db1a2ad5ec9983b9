"""The queue of sessions that wait for capacity: who is next, and what the others see."""
