{{- define "coturn.name" -}}{{ printf "%s-coturn" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end }}

{{- define "coturn.secret" -}}{{ .Values.auth.existingSecret | default (include "coturn.name" .) }}{{- end }}

{{- define "coturn.image" -}}
{{- $repository := .Values.image.repository }}
{{- with (.Values.global).imageRegistry }}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") }}
{{- end }}
{{- $repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ $.Values.image.tag }}{{ end }}
{{- end }}

{{- define "coturn.selectorLabels" -}}
app.kubernetes.io/name: coturn
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "coturn.labels" -}}
{{ include "coturn.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What cannot work, or would be open to others, is refused in words. */}}
{{- define "coturn.check" -}}
{{- if and .Chart.IsRoot (not .Values.auth.existingSecret) }}
{{- fail "coturn: auth.existingSecret is empty: name a Secret with the key `secret`; it is created automatically only as part of the chart vdi" }}
{{- end }}
{{- with .Values }}
{{- if not .realm }}
{{- fail "coturn: realm is empty; allowed: a domain to which clients authenticate, such as turn.example.com" }}
{{- end }}
{{- if not .allowedPeers }}
{{- fail "coturn: allowedPeers is empty, so nothing could be relayed; allowed: the address range of the pods, such as 10.42.0.0/16 (K3s)" }}
{{- end }}
{{- if gt (int .relayPorts.min) (int .relayPorts.max) }}
{{- fail (printf "coturn: relayPorts.min: %d is more than relayPorts.max (%d)" (int .relayPorts.min) (int .relayPorts.max)) }}
{{- end }}
{{- $ports := add1 (sub (int .relayPorts.max) (int .relayPorts.min)) }}
{{- if gt (int .quotas.total) (int $ports) }}
{{- fail (printf "coturn: quotas.total: %d is more than the number of relay ports; allowed: at most %d" (int .quotas.total) (int $ports)) }}
{{- end }}
{{- if and (le (int .relayPorts.min) (int .port)) (le (int .port) (int .relayPorts.max)) }}
{{- fail (printf "coturn: port: %d is one of relayPorts; allowed: a port outside that range" (int .port)) }}
{{- end }}
{{- if .hostNetwork }}
{{- if .traefik.entryPoint }}
{{- fail "coturn: traefik.entryPoint: allowed only with hostNetwork: false, because it routes to a Service" }}
{{- end }}
{{- if and .metrics.enabled (not .metrics.address) }}
{{- fail "coturn: metrics.address is empty: with hostNetwork, everyone who can reach the node could read the metrics; set an internal address of the node" }}
{{- end }}
{{- else if .externalIP }}
{{- fail "coturn: externalIP: allowed only with hostNetwork: true; behind a Service, desktops reach the relay ports at the pod's own address" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A CIDR as turnserver's FIRST-LAST. An allowed peer beats every denied one, so what is too wide is refused. */}}
{{- define "coturn.range" -}}
{{- $cidr := . }}
{{- $prefix := splitList "/" . | last | int }}
{{- $address := splitList "/" . | first }}
{{- if contains ":" . }}
{{- if or (lt $prefix 32) (gt $prefix 128) }}
{{- fail (printf "coturn: allowedPeers: %s: the prefix must be /32 to /128, or it would cover more than pods" $cidr) }}
{{- end }}
{{- if or (regexMatch "^0*:|^(0*64:0*ff9b|2002|fe[89ab][0-9a-f]|ff[0-9a-f]{2}):" (lower $address)) (regexMatch "^0+:" $address) }}
{{- fail (printf "coturn: allowedPeers: %s is not a range of pods: loopback, link-local, multicast or IPv4-mapped" $cidr) }}
{{- end }}
{{- $given := trimSuffix "::" $address | splitList ":" }}
{{- $first := list }}
{{- $last := list }}
{{- range $index := until 8 }}
{{- $group := lt $index (len $given) | ternary $index 0 | index $given | printf "0x%s" | int64 }}
{{- if ge $index (len $given) }}{{ $group = int64 0 }}{{ end }}
{{- $free := sub 16 (max 0 (min 16 (sub $prefix (mul 16 $index)))) }}
{{- $size := int64 1 }}
{{- range until (int $free) }}{{ $size = mul $size 2 }}{{ end }}
{{- if mod $group $size }}
{{- fail (printf "coturn: allowedPeers: %s has bits set after its prefix" $cidr) }}
{{- end }}
{{- $first = append $first (printf "%x" $group) }}
{{- $last = append $last (printf "%x" (sub (add $group $size) 1)) }}
{{- end }}
{{- join ":" $first }}-{{ join ":" $last }}
{{- else }}
{{- if or (lt $prefix 9) (gt $prefix 32) }}
{{- fail (printf "coturn: allowedPeers: %s: the prefix must be /9 to /32, or it would cover more than pods" $cidr) }}
{{- end }}
{{- $base := int64 0 }}
{{- range splitList "." $address }}
{{- if gt (int .) 255 }}{{ fail (printf "coturn: allowedPeers: %s is not an address: %s is more than 255" $cidr .) }}{{ end }}
{{- $base = add (mul $base 256) (int .) }}
{{- end }}
{{- if regexMatch "^(0|127|169\\.254|22[4-9]|2[34][0-9]|25[0-5])\\." $address }}
{{- fail (printf "coturn: allowedPeers: %s is not a range of pods: loopback, link-local (cloud metadata), multicast or reserved" $cidr) }}
{{- end }}
{{- $size := int64 1 }}
{{- range until (int (sub 32 $prefix)) }}{{ $size = mul $size 2 }}{{ end }}
{{- if mod $base $size }}
{{- fail (printf "coturn: allowedPeers: %s has bits set after its prefix" $cidr) }}
{{- end }}
{{- range $index, $number := list $base (sub (add $base $size) 1) }}
{{- if $index }}-{{ end }}
{{- printf "%d.%d.%d.%d" (div $number 16777216) (mod (div $number 65536) 256) (mod (div $number 256) 256) (mod $number 256) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Keys of the secrets that count, the newest first; an existing Secret may have previousSecret too. */}}
{{- define "coturn.secretKeys" -}}
{{- $rotation := int .Values.auth.rotation }}
{{- if .Values.auth.existingSecret }}
- secret
{{- else }}
- secret-{{ $rotation }}
{{- if and .Values.auth.acceptPrevious (gt $rotation 1) }}
- secret-{{ sub $rotation 1 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the gateway's init container writes into its Secret; vdi.gateway.server_secrets reads it. */}}
{{- define "coturn.contents" -}}
name: {{ include "coturn.name" . }}
random:
  {{- range include "coturn.secretKeys" . | fromYamlArray }}
  {{ . }}: 48
  {{- end }}
{{- end }}
