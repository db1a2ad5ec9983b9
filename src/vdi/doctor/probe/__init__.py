"""Active probes, for problems that no object shows. Besides fixes, the only part of the doctor that
writes.
"""
