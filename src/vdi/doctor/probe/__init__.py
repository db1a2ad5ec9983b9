"""Active probes: what can only be known by trying. The one part of the doctor, besides fix, that does not only read."""
