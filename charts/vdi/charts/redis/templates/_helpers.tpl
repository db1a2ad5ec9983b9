{{- define "redis.name" -}}{{ printf "%s-redis" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end }}

{{- define "redis.secret" -}}{{ .Values.auth.existingSecret | default (include "redis.name" .) }}{{- end }}

{{- define "redis.image" -}}
{{- $repository := .Values.image.repository }}
{{- with (.Values.global).imageRegistry }}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") }}
{{- end }}
{{- $repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ $.Values.image.tag }}{{ end }}
{{- end }}

{{- define "redis.selectorLabels" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "redis.labels" -}}
{{ include "redis.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Alone, this chart has nothing that could draw a password. */}}
{{- define "redis.check" -}}
{{- if and .Chart.IsRoot (not .Values.auth.existingSecret) }}
{{- fail "redis: auth.existingSecret is empty: name a Secret with the keys `password`, `redis.conf` and `url`; it is created automatically only as part of the chart vdi" }}
{{- end }}
{{- end }}

{{/* What the gateway's init container writes into its Secret; vdi.gateway.server_secrets reads it. */}}
{{- define "redis.contents" -}}
name: {{ include "redis.name" . }}
random: {password: 32}
text:
  url: {{ printf "redis://:{password}@%s.%s.svc:6379/0" (include "redis.name" .) .Release.Namespace | quote }}
  redis.conf: |
    requirepass {password}
    # What is in it lives for minutes and is made again: tickets, counters, events. Nothing is worth a volume.
    save ""
    appendonly no
    dir /tmp
    # Full means refused: to forget a ticket that was used would let it be used twice.
    maxmemory 128mb
    maxmemory-policy noeviction
{{- end }}
