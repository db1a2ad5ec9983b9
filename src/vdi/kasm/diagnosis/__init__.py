"""Why a pod of Kasm is not ready: its chain of waits is followed down to the one cause. Pure."""
