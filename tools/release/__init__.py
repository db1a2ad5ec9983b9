"""A release: build its files, sign them, prove them, push images and chart to a registry.
docs/releasing.md.
"""
