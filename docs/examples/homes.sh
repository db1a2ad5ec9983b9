#!/bin/sh
# Copies people's homes out of the cluster and back (docs/backup.md):
#
#   docs/examples/homes.sh list
#   docs/examples/homes.sh save FOLDER [CLAIM...]      all homes, or those named
#   docs/examples/homes.sh load FOLDER [CLAIM...]      all homes of the folder, or those named
#
# A home becomes two files: CLAIM.yaml, the claim, and CLAIM.tar.gz, what is in it. `load` makes the claim and fills it;
# a claim that is there already is left alone, and it says so. No desktop starts on a home before `load` has filled it;
# after an interruption, `load` begins again.
#
# Each home is read and written by a pod on its node that runs the image of the home's template, which that node has:
# nothing is pulled, no privilege is needed. The template must exist before its homes are loaded.
#
# NAMESPACE: the sessions' (vdi-sessions). IMAGE: another image with a shell, GNU tar and gzip. TIMEOUT: of a pod (120s).
set -eu
namespace=${NAMESPACE:-vdi-sessions}
timeout=${TIMEOUT:-120s}
mount=/home/user
mark='homes.sh load'
pod=
filling=

k() { kubectl --namespace "$namespace" "$@"; }

say() { echo "homes.sh: $*" >&2; }

remove_pod() {
    [ -z "$pod" ] || k delete pod "$pod" --ignore-not-found --now --wait=true >/dev/null
    pod=
}

finish() {
    remove_pod
    [ -z "$filling" ] || say "$filling: not complete, and no desktop starts on it; load it again, which fills it from" \
        "the beginning, or delete it: kubectl -n $namespace delete pvc $filling"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The homes that outlive their sessions. One that ends with its session (scope: Session, retain: false) cannot be loaded:
# the operator mounts no claim into a session that it has not made for it.
homes() {
    k get pvc -l app.kubernetes.io/managed-by=vdi-operator -o go-template='{{range .items}}{{if not .metadata.ownerReferences}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}'
    owned=$(k get pvc -l app.kubernetes.io/managed-by=vdi-operator -o go-template='{{range .items}}{{if .metadata.ownerReferences}} {{.metadata.name}}{{end}}{{end}}')
    [ -z "$owned" ] || say "left out, since they end with their sessions (scope: Session, retain: false):$owned;" \
        "to save the files of one: vdi home export CLAIM FILE"
}

annotation() { printf '%s' "{.metadata.annotations.vdi\.kasm\.io/$1}"; }

note() { k get pvc "$1" -o "jsonpath=$(annotation "$2")"; }

field() { [ -z "$template" ] || kubectl get vditemplate "$template" --ignore-not-found -o "jsonpath={.spec.$1}"; }

# What the pod of the claim `$1` has of the home's template, so that desktops can use what it writes, where it does.
# Maps and lists come as JSON, which is YAML. `$2`: the template's name; a home of all templates (scope: User) has none,
# and the first such template counts.
read_template() {
    template=$2
    [ -n "$template" ] || template=$(kubectl get vditemplates \
        -o 'jsonpath={.items[?(@.spec.persistence.scope=="User")].metadata.name}' | cut -d ' ' -f 1)
    image=${IMAGE:-$(field image)}
    if [ -z "$image" ]; then
        reason="its template $template does not exist"
        [ -n "$template" ] || reason="no template has persistence.scope: User"
        say "$1: $reason; create the template first, or set IMAGE"
        exit 1
    fi
    uid=$(field runAsUser)
    selector=$(field placement.nodeSelector)
    tolerations=$(field placement.tolerations)
    secrets=$(field imagePullSecrets)
}

# What makes the same claim again, on any cluster: all that the operator reads of one, but `copying` (see `save`) and
# `made-ahead`, which lets the gateway delete a home that no desktop has used.
claim_of() {
    k get pvc "$1" -o go-template='apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{.metadata.name}}
  labels: {app.kubernetes.io/managed-by: vdi-operator}
  annotations:
    vdi.kasm.io/user: {{printf "%q" (index .metadata.annotations "vdi.kasm.io/user")}}
{{with index .metadata.annotations "vdi.kasm.io/template"}}    vdi.kasm.io/template: {{printf "%q" .}}
{{end}}{{with index .metadata.annotations "vdi.kasm.io/last-used"}}    vdi.kasm.io/last-used: {{printf "%q" .}}
{{end}}spec:
  accessModes: [{{index .spec.accessModes 0}}]
  storageClassName: {{.spec.storageClassName}}
  resources: {requests: {storage: {{.spec.resources.requests.storage}}}}
'
}

# A pod that holds the claim while we copy; sets `pod`.
start_pod() {
    volume=$(k get pvc "$1" -o 'jsonpath={.spec.volumeName}')
    # A volume that exists knows its nodes, also after the template has chosen others.
    [ -z "$volume" ] || selector=
    pod=copy-$1
    # Not `apply`: the pod of this name may be that of another copy, which is not ours to change or delete.
    if ! k create -f - >/dev/null <<END
apiVersion: v1
kind: Pod
metadata:
  name: $pod
  labels: {app.kubernetes.io/name: vdi-home-copy}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  nodeSelector: $selector
  tolerations: $tolerations
  imagePullSecrets: $secrets
  securityContext:
    runAsNonRoot: true
    runAsUser: ${uid:-1000}
    runAsGroup: ${uid:-1000}
    fsGroup: ${uid:-1000}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: copy
      image: $image
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 256Mi}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts: [{name: home, mountPath: $mount, readOnly: $2}]
  volumes:
    - name: home
      persistentVolumeClaim: {claimName: $1}
END
    then
        say "$1: if an earlier copy was killed and left its pod: kubectl -n $namespace delete pod $pod"
        pod=
        exit 1
    fi
    if ! k wait "pod/$pod" --for=condition=Ready --timeout="$timeout" >/dev/null; then
        k get events --field-selector "involvedObject.name=$pod" -o 'jsonpath={range .items[*]}{.message}{"\n"}{end}' >&2
        say "$1: its pod did not start within $timeout, see above"
        exit 1
    fi
}

# A copy would be half of a home, and would not say so.
refuse_copying() {
    copying=$(note "$1" copying)
    if [ -n "$copying" ]; then
        say "$1: not saved, \`$copying\` is filling it; if that was interrupted, run it again first"
        exit 1
    fi
}

save() {
    refuse_copying "$2"
    owner=$(k get pvc "$2" -o 'jsonpath={.metadata.ownerReferences}')
    if [ -n "$owner" ]; then
        say "$2: not saved, it ends with its session and cannot be loaded; to save its files: vdi home export $2 FILE"
        exit 1
    fi
    claim_of "$2" >"$1/$2.yaml.unfinished"
    template=$(note "$2" template)
    read_template "$2" "$template"
    start_pod "$2" true
    # What is in the home, not its top folder, which belongs to root and keeps its mode. tar's status 1: a file changed
    # while it was read, as happens in a desktop that runs; anything above is an error.
    k exec "$pod" -- sh -c "cd $mount && find . -mindepth 1 -maxdepth 1 ! -name lost+found -print0 |
        tar --null -T - -cz || [ \$? -eq 1 ]" >"$1/$2.tar.gz.unfinished"
    gzip -t "$1/$2.tar.gz.unfinished"
    mv "$1/$2.yaml.unfinished" "$1/$2.yaml"
    mv "$1/$2.tar.gz.unfinished" "$1/$2.tar.gz"
    remove_pod
    echo "$2 of $(note "$2" user): $(du -h "$1/$2.tar.gz" | cut -f1)"
}

# The claim of a file, with the mark that keeps desktops away.
marked() { k annotate --local -f "$1" "vdi.kasm.io/copying=$mark" -o "$2"; }

load() {
    empty=
    exists=$(k get pvc "$2" --ignore-not-found -o name)
    if [ -n "$exists" ] && [ "$(note "$2" copying)" != "$mark" ]; then
        say "$2: is there already and stays as it is; to replace it: kubectl -n $namespace delete pvc $2"
        return 1
    fi
    # Whatever can fail without a claim comes before it.
    gzip -t "$1/$2.tar.gz"
    template=$(marked "$1/$2.yaml" "jsonpath=$(annotation template)")
    read_template "$2" "$template"
    if [ -n "$exists" ]; then
        # Folders without the right to write cannot be emptied.
        empty="find . -path ./lost+found -prune -o -type d ! -perm -700 -exec chmod u+rwx {} \; &&
            find . -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} + &&"
    else
        marked "$1/$2.yaml" yaml | k create -f - >/dev/null
    fi
    filling=$2
    start_pod "$2" false
    # Without the top folder, which `tar -c .` archives, too: it belongs to root.
    k exec -i "$pod" -- sh -c "cd $mount && $empty tar -xpz --anchored --no-recursion --exclude=." <"$1/$2.tar.gz"
    remove_pod
    k annotate pvc "$2" vdi.kasm.io/copying- >/dev/null
    filling=
    echo "$2 of $(note "$2" user): loaded"
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
what=$1
shift
case $what in
    list)
        found=$(homes)
        for claim in $found; do
            echo "$claim  $(note "$claim" user)  $(note "$claim" template)"
        done
        exit 0
        ;;
    save | load) ;;
    *) usage ;;
esac
[ $# -ge 1 ] || usage
folder=$1
shift
umask 077
if [ "$what" = save ]; then
    mkdir -p "$folder"
    if [ $# -eq 0 ]; then
        found=$(homes)
        # shellcheck disable=SC2086 # names, one per word
        set -- $found
    fi
elif [ $# -eq 0 ]; then
    for file in "$folder"/*.tar.gz; do
        [ -e "$file" ] || { say "$folder: there is no copy in it (*.tar.gz)"; exit 1; }
        set -- "$@" "$(basename "$file" .tar.gz)"
    done
fi
[ $# -gt 0 ] || say "there is no home in namespace $namespace"
if [ $# -eq 1 ]; then
    "$what" "$folder" "$1" # not in a condition: the shell would go on after an error in it
else
    failed=0
    for claim in "$@"; do
        "$0" "$what" "$folder" "$claim" || failed=1
    done
    exit $failed
fi
