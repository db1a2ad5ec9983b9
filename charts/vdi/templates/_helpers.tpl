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

{{/* Whether the cluster knew VDITemplate before this run; empty if not. */}}
{{- define "vdi.crdsKnown" -}}
{{- if .Capabilities.APIVersions.Has "vdi.kasm.io/v1alpha1/VDITemplate" }}yes{{ end }}
{{- end }}

{{/* Names of the templates of the release, with commas. */}}
{{- define "vdi.templateNames" -}}
{{- $names := list }}
{{- range $name, $spec := .Values.templates }}{{ if $spec }}{{ $names = append $names $name }}{{ end }}{{ end }}
{{- join ", " $names }}
{{- end }}
