#!/usr/bin/env bash
# Shares each NVIDIA GPU of the cluster among 8 desktops, and verifies that the nodes advertise 8 per GPU. It needs
# kubectl and NVIDIA's GPU Operator, nothing else, and can be run again at any time:
#
#   scripts/configure_gpu_slicing.sh
#
# KUBECONFIG: which cluster. TIMEOUT: seconds to wait for the nodes (600).
# `vdi gpu configure` has more: other numbers, several configurations, the device plugin without the GPU Operator, a diff
# before, checks for MPS and MIG, an undo (docs/gpu.md). Exit status: 0 done, 1 not done, 2 usage, 3 no cluster.
set -euo pipefail

namespace=gpu-operator
config_map=time-slicing-config
replicas=8
plugin=nvidia-device-plugin-daemonset
discovery=gpu-feature-discovery
manifests=$(cd "$(dirname "${BASH_SOURCE[0]}")/../manifests" && pwd)
deadline=$((SECONDS + ${TIMEOUT:-600}))

fail() {
    local status=$1
    shift
    printf 'configure_gpu_slicing.sh: %s\n' "$@" >&2
    exit "$status"
}

left() { echo $((deadline > SECONDS ? deadline - SECONDS : 1)); }

operate() { kubectl --namespace "$namespace" "$@"; }

# Whether the GPU Operator has given this DaemonSet the ConfigMap and its default key.
is_rendered() {
    local found
    found=$(operate get daemonset "$1" -o go-template='{{range .spec.template.spec.volumes}}{{with .configMap}}{{.name}} {{end}}{{end}}{{range .spec.template.spec.containers}}{{range .env}}{{if eq .name "DEFAULT_CONFIG"}}default={{.value}} {{end}}{{end}}{{end}}')
    [[ " $found" == *" $config_map "* && " $found" == *" default=any "* ]]
}

# NAME GPUS ADVERTISED CONFIG of each node with a GPU; `?` for what its labels do not say.
nodes() {
    kubectl get nodes -l nvidia.com/gpu.present=true -o go-template='{{range .items}}{{.metadata.name}} {{or (index .metadata.labels "nvidia.com/gpu.count") "?"}} {{or (index .status.capacity "nvidia.com/gpu") "0"}} {{or (index .metadata.labels "nvidia.com/device-plugin.config") "any"}}{{"\n"}}{{end}}'
}

# Prints one line for each node; false while one of them does not advertise 8 per GPU.
verify() {
    local name gpus advertised config wanted status=0
    while read -r name gpus advertised config; do
        if [[ $gpus == '?' ]]; then
            echo "✗ node $name: the label nvidia.com/gpu.count is missing: see 'kubectl -n $namespace logs ds/$discovery'"
            status=1
            continue
        fi
        wanted=$((gpus * replicas))
        if [[ $advertised == "$wanted" ]]; then
            echo "✓ node $name: $gpus x $replicas = $wanted nvidia.com/gpu"
        elif [[ $config != any ]]; then
            echo "✗ node $name: $advertised nvidia.com/gpu instead of $wanted: its label selects the configuration $config." \
                "To use this one: kubectl label node $name nvidia.com/device-plugin.config-"
            status=1
        else
            echo "✗ node $name: $advertised nvidia.com/gpu instead of $wanted"
            status=1
        fi
    done <<<"$1"
    return "$status"
}

[[ $# -eq 0 ]] || fail 2 "it takes no options; 'vdi gpu configure $*' does"
command -v kubectl >/dev/null || fail 3 "kubectl is not in PATH"
policies=$(kubectl get crd clusterpolicies.nvidia.com --ignore-not-found -o name) || fail 3 "the cluster does not answer"
[[ -n $policies && -n $(kubectl get clusterpolicy cluster-policy --ignore-not-found -o name) ]] ||
    fail 1 "There is no ClusterPolicy cluster-policy, so NVIDIA's GPU Operator is not installed. Install it:" \
        "  helm repo add nvidia https://helm.ngc.nvidia.com/nvidia" \
        "  helm install gpu-operator nvidia/gpu-operator --namespace $namespace --create-namespace --wait"
[[ -n $(nodes) ]] || fail 1 "No node has a GPU: 'kubectl get nodes -l nvidia.com/gpu.present=true' finds none." \
    "See 'kubectl -n $namespace get pods'."

# The ConfigMap first: a policy that names one which is not there keeps the device plugin down.
kubectl apply --server-side --force-conflicts --field-manager=vdi-gpu -f "$manifests/gpu-time-slicing.yaml"
# Name and default key: with the name alone only labelled nodes take the configuration.
kubectl patch clusterpolicy cluster-policy --type=merge --patch-file "$manifests/gpu-cluster-policy-patch.yaml"

echo "Waiting for the GPU Operator"
until is_rendered "$plugin"; do
    ((SECONDS < deadline)) || fail 1 "The GPU Operator has not given $plugin the ConfigMap $config_map." \
        "See 'kubectl -n $namespace logs deploy/gpu-operator' and 'kubectl get clusterpolicy cluster-policy'."
    sleep 1
done
# Both read the ConfigMap when they start, and never again. Desktops that run are not touched.
restarted=("daemonset/$plugin")
[[ -z $(operate get daemonset "$discovery" --ignore-not-found -o name) ]] || restarted+=("daemonset/$discovery")
operate rollout restart "${restarted[@]}"
for each in "${restarted[@]}"; do
    operate rollout status "$each" --timeout="$(left)s" ||
        fail 1 "$each has not restarted in time. See 'kubectl -n $namespace get pods' and its logs."
done

echo "Waiting for the nodes"
until said=$(verify "$(nodes)"); do
    if ((SECONDS >= deadline)); then
        echo "$said"
        fail 1 "Not all nodes advertise $replicas per GPU. See 'kubectl -n $namespace logs ds/$plugin --all-containers'."
    fi
    sleep 1
done
echo "$said"
echo "Time-slicing isolates neither memory nor faults: each desktop can fill the memory of its GPU."
