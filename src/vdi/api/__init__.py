"""The API group `vdi.kasm.io/v1alpha1` as msgspec structs; the CRDs are generated from them. Imports nothing of ours."""
