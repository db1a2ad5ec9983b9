"""From nothing to a picture: the road that `vdi demo` and the end-to-end tests walk. Called by
`cli`.
"""
