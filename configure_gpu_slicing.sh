#!/usr/bin/env bash
# Shares each NVIDIA GPU of the cluster among 8 desktops and verifies that the nodes then advertise 8 per GPU.
# A call of `vdi gpu configure`, whose options it takes: ./configure_gpu_slicing.sh --replicas 4 --dry-run
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -x "$root/.venv/bin/python" ]; then
    exec "$root/.venv/bin/python" -m vdi gpu configure "$@"
elif command -v vdi >/dev/null; then
    exec vdi gpu configure "$@"
fi
echo "configure_gpu_slicing.sh: there is no vdi: neither $root/.venv (make setup) nor a program 'vdi' in PATH" >&2
exit 3
