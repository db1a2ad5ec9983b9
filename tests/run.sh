#!/usr/bin/env bash
# Runs the named suites one after another and says how long each took: tests/run.sh [--thorough] unit cluster e2e ...
# --thorough: many more examples for the property tests, and the long variants of tests.
# Every suite runs, also after one has failed; the exit status is 1 if any of them failed.
set -u
cd "$(dirname "$0")/.." || exit
unset PYTHONDONTWRITEBYTECODE # tests start our programs hundreds of times
export GOGC=400 # half of the time is spent in Go programs (API server, etcd, helm, kubectl): memory for processor time
python=.venv/bin/python
# A worker that crashed is not replaced: pytest-xdist once hung after it had replaced one.
pytest=("$python" -m pytest --durations 10 --max-worker-restart 0)
# pytest handles SIGINT itself, so without this the next suite would begin.
trap '[ -z "$beside" ] || { kill -INT -- "-$beside"; wait "$beside"; }; echo "== interrupted"; exit 130' INT TERM
examples=()
left_out=(-m "not long and not ci")
[ -z "${CI:-}" ] || left_out=(-m "not long")
if [ "${1:-}" = --thorough ]; then
    examples=(--hypothesis-profile thorough --timeout 600)
    left_out=()
    shift
fi
asked=" $* "
failed=()
times=()
beside=
suites_beside=
printed=

run() {
    local suite=$1 begin=$SECONDS
    shift
    echo "== $suite"
    "$@" || failed+=("$suite")
    times+=("$(printf '%-8s %5d s' "$suite" $((SECONDS - begin)))")
}

# Starts suites, one after the other, beside the next ones, which wait more than they compute. What one of them prints
# comes with `finish`.
start_beside() {
    local suite
    suites_beside=" $* "
    printed=${printed:-$(mktemp -d)}
    set -m # a process group of its own, so that Ctrl-C can end it
    (trap 'exit 130' INT # not the next suite
    for suite in "$@"; do
        "$suite" > "$printed/$suite" 2>&1
        echo $? > "$printed/$suite.status"
    done) &
    set +m
    beside=$!
}

finish() {
    wait "$beside"
    cat "$printed/$1"
    return "$(cat "$printed/$1.status")"
}

run_or_finish() {
    case $suites_beside in
        *" $1 "*) run "$1" finish "$1" ;;
        *) run "$1" "$1" ;;
    esac
}

# The servers and the browser that the tests of these suites start.
case " $* " in
    *" cluster "* | *" charts "* | *" e2e "* | *" portal "* | *" streaming "* | *" doctor "* | *" network "* | *" nodes "*) run servers tests/install-servers ;;
esac

# Tests wait a part of their time: more workers than there are cores. Each of the cluster suite has a control plane of its
# own, which takes 600 MB, and module fixtures stay on one worker.
cores=$(nproc)
workers=$((cores < 8 ? cores : 8))
spread=(--numprocesses $((workers + 2)) --dist loadfile)

# Of the folder cluster, and the rules of the network: tests that wait for helm and need neither a browser nor the ports of
# a desktop, so that `make test` can run them beside a desktop.
of_charts=(tests/cluster/test_*chart*.py tests/cluster/test_gpu.py tests/cluster/test_kasm_*.py tests/cluster/test_release*.py
    tests/cluster/test_server_secrets.py tests/network)

# What many tests start. What one file needs, its fixture builds while the other workers go on.
control_plane=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl helm traefik-crds.yaml)

# A new cluster. A run that was killed leaves its own behind, with another number of nodes maybe, and `demo up` goes on with it.
new_demo() { # NAME [OPTION ...]
    down "$1" && $python -m vdi demo up --no-scene --name "$@"
}

down() { # NAME
    $python -m vdi demo down --name "$1"
}

# A desktop as `make demo` makes it, on a cluster of its own name, so that a demo that runs is left alone.
desktops() {
    new_demo e2e --screenshot demo.png || return
    # Not sooner: pages of a browser fail when the machine's network interfaces change.
    local suite suites=()
    for suite in portal chaos-fast charts; do
        case $asked in *" e2e "*"$suite "*) suites+=("$suite") ;; esac # one before e2e has run already
    done
    start_beside ${suites[@]+"${suites[@]}"}
    "${pytest[@]}" tests/e2e --ignore tests/e2e/test_node_guest.py --ignore-glob '*/test_streaming_*.py' --timeout 180 \
        ${left_out[@]+"${left_out[@]}"}
}

# What each switch of a template's stream does, in a browser and by hand.
streaming() (
    trap 'down e2e || exit 1' EXIT
    new_demo e2e || exit
    "${pytest[@]}" tests/e2e/test_streaming_*.py --timeout 180
)

doctor() ( # without the score on faults of outsiders, which is run by hand
    trap 'down e2e || exit 1' EXIT
    new_demo e2e || exit
    "${pytest[@]}" tests/doctor -m "not long"
)

network() ( # packets on a node with an enforcer of the tests' own
    trap 'down e2e || exit 1' EXIT
    "${pytest[@]}" tests/network/packets.py --timeout 400
)

# Some of the faults that the suite `doctor` makes on the same node.
a_cut_of_the_faults="nothing_is_wrong or library or operator_is_scaled or gateway_is_scaled"

# Some of the suite `nodes`, on the cluster of `e2e` with a second node; the first of these tests adds the third.
of_several_nodes=(tests/nodes/test_nodes_join.py tests/nodes/test_nodes_home.py tests/nodes/test_nodes_drain.py)

nodes_fast() {
    $python -m vdi cluster nodes --name e2e --add-node || return
    VDI_E2E_CLUSTER=e2e "${pytest[@]}" "${of_several_nodes[@]}"
}

portal() { # each worker has a browser
    "${pytest[@]}" tests/portal --numprocesses "$workers" --dist worksteal ${left_out[@]+"${left_out[@]}"}
}

# A cut of a minute or two: one flow with every fault, and a short mixture that is always the same.
chaos-fast() {
    $python -m tools.binaries "${control_plane[@]}" || return
    VDI_CHAOS_SECONDS=30 VDI_CHAOS_SEED=1 "${pytest[@]}" \
        "tests/chaos/test_chaos_calls.py::test_every_fault_at_every_call[create]" tests/chaos/test_chaos_mixture.py \
        tests/chaos/test_chaos_unanswered.py --numprocesses "$workers" --dist loadfile
}

charts() { # the tests of desktops beside them go first
    $python -m tools.binaries "${control_plane[@]}" || return
    nice -n 10 "${pytest[@]}" "${of_charts[@]}" --timeout 180 --numprocesses "$workers" --dist loadfile \
        ${left_out[@]+"${left_out[@]}"}
}

nodes() ( # three nodes of a cluster of its own
    trap 'down nodes || exit 1' EXIT
    new_demo nodes --nodes 3 || exit
    "${pytest[@]}" tests/nodes
)

kasm() { # takes down the node that it has made
    $python -m tools.binaries helm kubectl || return
    "${pytest[@]}" tests/kasm
}

# Waits two thirds of its time: kasm and nodes, with clusters of their own, run beside it when they come next.
chaos() {
    $python -m tools.binaries "${control_plane[@]}" || return
    case $asked in *" chaos kasm nodes "*) start_beside kasm nodes ;; esac
    "${pytest[@]}" tests/chaos
}

for suite in "$@"; do
    case $suite in
        unit)
            if [ ${#examples[@]} -gt 0 ]; then
                run unit "${pytest[@]}" tests/unit --numprocesses $((workers + 1)) --dist worksteal "${examples[@]}"
            else
                run unit env PYTEST_ADDOPTS="--durations 10" make --no-print-directory unit
            fi
            ;;
        cluster)
            run "programs" $python -m tools.binaries "${control_plane[@]}"
            run cluster "${pytest[@]}" tests/cluster "${of_charts[@]/#/--ignore=}" --timeout 180 "${spread[@]}" \
                ${left_out[@]+"${left_out[@]}"}
            ;;
        e2e)
            if [ "$(id -u)" -eq 0 ]; then
                trap 'down e2e' EXIT
                run desktops desktops
                if [ -n "${CI:-}" ]; then
                    run doctor-fast "${pytest[@]}" tests/doctor/test_doctor_node.py -k "$a_cut_of_the_faults"
                    # --thorough: they are in the suite `nodes`.
                    [ ${#examples[@]} -gt 0 ] || run nodes-fast nodes_fast
                fi
                run "down" down e2e
                trap - EXIT
                run node "${pytest[@]}" tests/e2e/test_node_guest.py --timeout 300 ${left_out[@]+"${left_out[@]}"}
            else
                echo "== e2e: NOT RUN: a node needs root (kubelet, containerd, network namespaces); run: sudo make e2e"
                times+=("e2e      not run: needs root")
                [ -z "${CI:-}" ] || failed+=(e2e)
            fi
            ;;
        chaos | doctor | streaming | network) run "$suite" "$suite" ;;
        portal | chaos-fast | charts | kasm | nodes) run_or_finish "$suite" ;;
        *)
            echo "tests/run.sh: unknown suite '$suite'; allowed: unit cluster charts e2e portal streaming doctor kasm network nodes chaos chaos-fast" >&2
            exit 2
            ;;
    esac
done

[ -z "$printed" ] || rm -r "$printed"
echo "== where the time went"
printf '  %s\n' "${times[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "== failed: ${failed[*]}"
    exit 1
fi
