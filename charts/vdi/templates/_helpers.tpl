{{/* Names in a namespace are fixed: a namespace has one release at most. */}}
{{- define "vdi.name" -}}vdi-operator{{- end }}

{{/* Name of an object that is in no namespace, so that several releases have one each. Given: the root and the fixed part. */}}
{{- define "vdi.clusterName" -}}
{{- index . 1 }}.{{ (index . 0).Release.Namespace }}.{{ (index . 0).Release.Name }}
{{- end }}

{{- define "vdi.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: operator
control-plane: controller-manager
{{- end }}

{{- define "vdi.labels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: operator
{{ include "vdi.releaseLabels" . }}
{{- end }}

{{- define "vdi.releaseLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Name of the Secret with the wildcard certificate; empty: Traefik has one of its own. */}}
{{- define "vdi.tlsSecret" -}}
{{- .Values.traefik.tlsSecret | default (ternary "vdi-wildcard" "" (ne .Values.traefik.certManager.issuer "")) }}
{{- end }}

{{/* The namespaces of the routes that name it, as a JSON list: with a gateway the portal's alone, whose certificate Traefik presents for desktops too. So no account that reads Secrets of desktops reads its key. */}}
{{- define "vdi.tlsNamespaces" -}}
{{- if .Values.gateway.enabled }}{{ list .Release.Namespace | toJson }}{{ else }}{{ include "vdi.sessions.namespaces" . }}{{ end }}
{{- end }}

{{/* The Secret whose key `token` Prometheus sends to read /metrics. */}}
{{- define "vdi.metricsSecret" -}}
{{- .Values.monitoring.existingSecret | default "vdi-metrics" }}
{{- end }}

{{- define "vdi.metricsMount" -}}
- name: metrics-token
  mountPath: /var/run/secrets/vdi-metrics
  readOnly: true
{{- end }}

{{- define "vdi.metricsVolume" -}}
- name: metrics-token # read again for each scrape, so a rotation restarts nothing
  secret:
    secretName: {{ include "vdi.metricsSecret" . }}
    optional: true # without it /metrics is refused, and everything else works
    items: [{key: token, path: token}]
{{- end }}

{{/* Apart from each other: other nodes first of all, and other zones where nodes have them. Those of the same revision alone: pods that a rolling update is about to end would push the new ones onto one node. Given: their labels. */}}
{{- define "vdi.apart" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
    - weight: {{ $weight }}
      podAffinityTerm:
        topologyKey: {{ $key }}
        labelSelector:
          matchLabels:
            {{- $ | nindent 12 }}
        matchLabelKeys: [pod-template-hash] # from Kubernetes 1.31; ignored before
    {{- end }}
{{- end }}

{{/* Whether objects of a kind of ours are rendered: the cluster knew it before this run, or the values say so; empty if not. Given: the root and the kind. */}}
{{- define "vdi.kindKnown" -}}
{{- if (index . 0).Values.crds.assumeInstalled }}yes
{{- else if (index . 0).Capabilities.APIVersions.Has (printf "vdi.kasm.io/v1alpha1/%s" (index . 1)) }}yes{{ end }}
{{- end }}

{{/* Names of the keys that have a value, with commas. */}}
{{- define "vdi.names" -}}
{{- $names := list }}
{{- range $name, $spec := . }}{{ if $spec }}{{ $names = append $names $name }}{{ end }}{{ end }}
{{- join ", " $names }}
{{- end }}

{{/* What the release wants to bring and can't yet: "templates (small), pools (warm)"; empty if nothing. */}}
{{- define "vdi.notYetThere" -}}
{{- $missing := list }}
{{- $templates := include "vdi.names" .Values.templates }}
{{- if and $templates (not (include "vdi.kindKnown" (list . "VDITemplate"))) }}
{{- $missing = append $missing (printf "the templates (%s)" $templates) }}
{{- end }}
{{- $pools := include "vdi.names" .Values.pools }}
{{- if and $pools (not (include "vdi.kindKnown" (list . "VDIPool"))) }}
{{- $missing = append $missing (printf "the pools (%s)" $pools) }}
{{- end }}
{{- if and (include "vdi.probe.image" .) (not (include "vdi.kindKnown" (list . "VDITemplate"))) }}
{{- $missing = append $missing "the probe" }}
{{- end }}
{{- if $missing }}{{ join " and " (compact (list (join ", " (initial $missing)) (last $missing))) }}{{ end }}
{{- end }}

{{/* Weights as the operator reads them: user=weight, with commas. */}}
{{- define "vdi.queueWeights" -}}
{{- $pairs := list }}
{{- range $user, $weight := .Values.queue.weights }}{{ $pairs = append $pairs (printf "%s=%v" $user $weight) }}{{ end }}
{{- join "," $pairs }}
{{- end }}

{{/* Free places as the operator reads them: template=number, with commas. */}}
{{- define "vdi.headroom" -}}
{{- $pairs := list }}
{{- range $template, $number := .Values.autoscaling.headroom }}{{ $pairs = append $pairs (printf "%s=%d" $template (int $number)) }}{{ end }}
{{- join "," $pairs }}
{{- end }}

{{/* The namespaces of sessions as a JSON list; refused is what names another one. */}}
{{- define "vdi.sessions.namespaces" -}}
{{- $namespaces := .Values.sessions.namespaces | default (list .Values.sessions.namespace) }}
{{- range $group, $namespace := .Values.sessions.groupNamespaces }}
{{- if not (has $namespace $namespaces) }}
{{- fail (printf "sessions.groupNamespaces: %s: %s: allowed: a namespace of sessions: %s" $group $namespace (join ", " $namespaces)) }}
{{- end }}
{{- end }}
{{- $namespaces | toJson }}
{{- end }}

{{/* The first of them: it has what there is once. */}}
{{- define "vdi.sessions.first" -}}
{{- include "vdi.sessions.namespaces" . | fromJsonArray | first }}
{{- end }}

{{- define "vdi.placeholders.namespace" -}}
{{ include "vdi.sessions.first" . }}-placeholders
{{- end }}
