{{- define "vdi.probe.name" -}}vdi-probe{{- end }}

{{- define "vdi.probe.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: probe
{{- end }}

{{- define "vdi.probe.labels" -}}
{{ include "vdi.probe.selectorLabels" . }}
{{ include "vdi.releaseLabels" . }}
{{- end }}

{{/* The image of the desktop that is measured; empty: there is no probe. */}}
{{- define "vdi.probe.image" -}}
{{- if and .Values.probe.enabled .Values.gateway.enabled }}
{{- .Values.probe.desktop.image | default ((.Values.templates | default dict).small | default dict).image | default "" }}
{{- end }}
{{- end }}

{{/* Templates are in no namespace: each release has one of its own. */}}
{{- define "vdi.probe.template" -}}
{{ include "vdi.clusterName" (list . (include "vdi.probe.name" .)) }}
{{- end }}
