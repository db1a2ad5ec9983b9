{{- define "redis.name" -}}{{ printf "%s-redis" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end }}

{{- define "redis.secret" -}}{{ .Values.auth.existingSecret | default (include "redis.name" .) }}{{- end }}

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
