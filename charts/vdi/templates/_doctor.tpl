{{- define "vdi.doctor.name" -}}vdi-doctor{{- end }}

{{- define "vdi.doctor.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: doctor
{{- end }}

{{- define "vdi.doctor.labels" -}}
{{ include "vdi.doctor.selectorLabels" . }}
{{ include "vdi.releaseLabels" . }}
{{- end }}
