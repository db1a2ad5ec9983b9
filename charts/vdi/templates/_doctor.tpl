{{- define "vdi.doctor.name" -}}vdi-doctor{{- end }}

{{- define "vdi.doctor.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: doctor
{{- end }}

{{- define "vdi.doctor.labels" -}}
{{ include "vdi.doctor.selectorLabels" . }}
{{ include "vdi.releaseLabels" . }}
{{- end }}

{{/* What `vdi doctor` reads, in all namespaces; no Secret is among it. */}}
{{- define "vdi.doctor.rules" -}}
- apiGroups: [vdi.kasm.io]
  resources: [vdisessions, vditemplates, vdipools]
  verbs: [list]
- apiGroups: [""]
  resources: [pods, services, persistentvolumeclaims, nodes, persistentvolumes]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log, configmaps]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments, daemonsets, statefulsets]
  verbs: [list]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [ingresses, networkpolicies]
  verbs: [list]
- apiGroups: [traefik.io]
  resources: [ingressroutes, middlewares, serverstransports]
  verbs: [list]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [list]
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [list]
- apiGroups: [node.k8s.io]
  resources: [runtimeclasses]
  verbs: [list]
- apiGroups: [nvidia.com]
  resources: [clusterpolicies]
  verbs: [list]
- apiGroups: [resource.k8s.io]
  resources: [resourceslices]
  verbs: [list]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get]
{{- end }}
