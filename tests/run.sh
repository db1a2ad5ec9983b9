#!/usr/bin/env bash
# Runs the named suites one after another and says how long each took: tests/run.sh unit cluster e2e
# Every suite runs, also after one has failed; the exit status is 1 if any of them failed.
set -u
cd "$(dirname "$0")/.."
python=.venv/bin/python
failed=()
times=()

run() {
    local suite=$1 begin=$SECONDS
    shift
    echo "== $suite"
    "$@" || failed+=("$suite")
    times+=("$(printf '%-8s %5d s' "$suite" $((SECONDS - begin)))")
}

for suite in "$@"; do
    case $suite in
        unit) run unit $python -m pytest tests/unit ;;
        cluster) run cluster $python -m pytest tests/cluster --timeout 180 ;;
        e2e)
            if [ "$(id -u)" -eq 0 ]; then
                run e2e $python -m pytest tests/e2e --timeout 900
            else
                echo "== e2e: NOT RUN: a node needs root (kubelet, containerd, network namespaces); run: sudo make e2e"
                times+=("e2e      not run: needs root")
            fi
            ;;
        *)
            echo "tests/run.sh: unknown suite '$suite'; allowed: unit cluster e2e" >&2
            exit 2
            ;;
    esac
done

echo "== where the time went"
printf '  %s\n' "${times[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "== failed: ${failed[*]}"
    exit 1
fi
