{{- define "postgresql.name" -}}{{ printf "%s-postgresql" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end }}

{{- define "postgresql.secret" -}}{{ .Values.auth.existingSecret | default (include "postgresql.name" .) }}{{- end }}

{{- define "postgresql.image" -}}
{{- $repository := .Values.image.repository }}
{{- with (.Values.global).imageRegistry }}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") }}
{{- end }}
{{- $repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ $.Values.image.tag }}{{ end }}
{{- end }}

{{- define "postgresql.selectorLabels" -}}
app.kubernetes.io/name: postgresql
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "postgresql.labels" -}}
{{ include "postgresql.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Alone, this chart has nothing that could draw a password. */}}
{{- define "postgresql.check" -}}
{{- if and .Chart.IsRoot (not .Values.auth.existingSecret) }}
{{- fail "postgresql: auth.existingSecret is empty: name a Secret with the keys `password` and `url`; it is created automatically only as part of the chart vdi" }}
{{- end }}
{{- end }}

{{/* What the gateway's init container writes into its Secret; vdi.gateway.server_secrets reads it. */}}
{{- define "postgresql.contents" -}}
name: {{ include "postgresql.name" . }}
random: {password: 32}
text:
  url: {{ printf "postgresql+asyncpg://%s:{password}@%s.%s.svc:5432/%s" .Values.auth.username (include "postgresql.name" .) .Release.Namespace .Values.auth.database | quote }}
{{- end }}
