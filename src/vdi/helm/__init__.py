"""Helm 3 and 4 as a program that we run: flags of each, the state of releases, what a release waits
for, and failures in words. Used by `release` and `kasm`.
"""
