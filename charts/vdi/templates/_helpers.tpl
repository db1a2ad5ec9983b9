{{/* Names are fixed: CRDs make the operator one of a kind on its cluster. */}}
{{- define "vdi.name" -}}vdi-operator{{- end }}

{{- define "vdi.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: operator
control-plane: controller-manager
{{- end }}

{{- define "vdi.labels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
