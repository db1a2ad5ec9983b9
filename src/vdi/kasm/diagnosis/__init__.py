"""Diagnosis of pods of Kasm that are not ready: a chain of waits, followed down to its one cause.
Pure.
"""
