{{- define "vdi.test.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "vdi.test.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The labels by which a list of peers knows pods wherever they are; empty if it knows them otherwise. */}}
{{- define "vdi.test.labelsOf" -}}
{{- $found := dict }}
{{- range . }}
{{- if and (not $found) (hasKey . "namespaceSelector") (not .namespaceSelector) (dig "podSelector" "matchLabels" "" .) (not .podSelector.matchExpressions) }}
{{- $found = .podSelector.matchLabels }}
{{- end }}
{{- end }}
{{- if $found }}{{ toYaml $found }}{{ end }}
{{- end }}

{{/*
Who there is, and what should get through: plan.json of files/network/trial.py. A test holds it equal to what the policies
mean (tests/network).
*/}}
{{- define "vdi.test.plan" -}}
{{- $own := .Release.Namespace }}
{{- $sessions := include "vdi.sessions.first" . }}
{{- $gateway := .Values.gateway.enabled }}
{{- $traefik := include "vdi.test.labelsOf" .Values.traefik.peers }}
{{- $prometheus := include "vdi.test.labelsOf" .Values.monitoring.peers }}
{{- $notTried := list }}
{{- if not $traefik }}{{ $notTried = append $notTried "Traefik: traefik.peers does not name it by labels alone" }}{{ end }}
{{- if not $prometheus }}{{ $notTried = append $notTried "Prometheus: monitoring.peers does not name it by labels alone" }}{{ end }}
{{- $servers := dict }}
{{- if .Values.postgresql.enabled }}{{ $_ := set $servers "the PostgreSQL server" (printf "%s.%s.svc" (include "postgresql.name" .) $own) }}{{ end }}
{{- if .Values.redis.enabled }}{{ $_ := set $servers "the Redis server" (printf "%s.%s.svc" (include "redis.name" .) $own) }}{{ end }}
image: {{ include "vdi.image" (list . .Values.image) }}
podSecurity:
  {{- include "vdi.test.podSecurity" . | nindent 2 }}
containerSecurity:
  {{- include "vdi.test.containerSecurity" . | nindent 2 }}
roles:
  desktop:
    namespace: {{ $sessions }}
    labels: {app.kubernetes.io/managed-by: vdi-operator}
    ports: {http: 8080, agent: 8082, other: 9999}
    ours: true
  fetcher:
    namespace: {{ $sessions }}
    labels: {app.kubernetes.io/managed-by: vdi-operator, vdi.kasm.io/prepull: network-test}
    ports: {}
    ours: true
  operator:
    namespace: {{ $own }}
    labels:
      {{- include "vdi.selectorLabels" . | nindent 6 }}
    ports: {metrics: 8081, other: 9999}
    ours: true
  {{- if $gateway }}
  gateway:
    namespace: {{ $own }}
    labels:
      {{- include "vdi.gateway.selectorLabels" . | nindent 6 }}
    ports: {http: 8080, internal: 8081, other: 9999}
    ours: true
  {{- end }}
  {{- if .Values.doctor.schedule }}
  doctor:
    namespace: {{ $own }}
    labels:
      {{- include "vdi.doctor.selectorLabels" . | nindent 6 }}
    ports: {}
    ours: true
  {{- end }}
  {{- if .Values.postgresql.enabled }}
  postgresql:
    namespace: {{ $own }}
    labels:
      {{- include "postgresql.selectorLabels" . | nindent 6 }}
    ports: {}
    ours: true
  {{- end }}
  {{- if .Values.redis.enabled }}
  redis:
    namespace: {{ $own }}
    labels:
      {{- include "redis.selectorLabels" . | nindent 6 }}
    ports: {}
    ours: true
  {{- end }}
  {{- with $traefik }}
  traefik:
    namespace: {{ $own }}
    labels:
      {{- . | nindent 6 }}
    ports: {}
    ours: false
  {{- end }}
  {{- with $prometheus }}
  prometheus:
    namespace: {{ $own }}
    labels:
      {{- . | nindent 6 }}
    ports: {}
    ours: false
  {{- end }}
  neighbour:
    namespace: {{ $own }}
    labels: {app.kubernetes.io/name: vdi-network-test}
    ports: {http: 8080}
    ours: false
{{- $internet := ternary (list "desktop") list .Values.network.internet }}
{{- if and (not .Values.network.apiServer) (has "443" (include "vdi.network.apiServerPorts" . | fromJsonArray)) }}
{{- $internet = concat $internet (list "operator" "gateway" "doctor") }}
{{- else if $gateway }}
{{- $ports := list }}
{{- range compact (list .Values.gateway.oidc.issuer .Values.gateway.notices.webhook.url .Values.gateway.recordings.s3.endpoint) }}
{{- $ports = append $ports (include "vdi.network.portOf" .) }}
{{- end }}
{{- if has "443" $ports }}{{ $internet = append $internet "gateway" }}{{ end }}
{{- end }}
services:
  {{- toYaml $servers | nindent 2 }}
outside:
  {{- if .Values.postgresql.enabled }}
  the PostgreSQL server: [5432]
  {{- end }}
  {{- if .Values.redis.enabled }}
  the Redis server: [6379]
  {{- end }}
  the API server: [443]
  names: [0]
  cloud metadata: [80]
  the internet: [443]
allowed:
  desktop 8080: [{{ if $gateway }}gateway, {{ end }}traefik]
  desktop 8082: [{{ if $gateway }}gateway, {{ end }}operator]
  operator 8081: [prometheus]
  {{- if $gateway }}
  gateway 8080: [traefik]
  gateway 8081: [traefik, gateway, operator, prometheus]
  {{- end }}
  the PostgreSQL server 5432: [gateway]
  the Redis server 6379: [gateway]
  the API server 443: [operator, gateway, doctor]
  names 0: [desktop, operator, gateway, doctor]
  the internet 443: [{{ join ", " $internet }}]
notTried:
  {{- toYaml $notTried | nindent 2 }}
{{- end }}
