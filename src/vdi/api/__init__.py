"""The API group `vdi.kasm.io/v1alpha1` as msgspec structs, and the CRDs made from them. Imports
nothing of ours.
"""
