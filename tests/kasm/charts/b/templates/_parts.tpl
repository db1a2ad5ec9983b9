{{/* Workloads are named after the release, Services are not. */}}
{{- define "parts" }}
{{- $r := .Release.Name }}
{{- $given := .Values.components }}
{{- $api := dict "name" "kasm-api-is-ready" "url" "http://kasm-api:8080/api/__healthcheck" | toJson }}
{{- if not .Values.database.standalone }}
- key: db
  name: {{ $r }}-db
  workload: {{ $r }}-db-statefulset
  kind: StatefulSet
  service: kasm-db
  container: {{ $r }}-db-container
  ports: [5432]
  database: true
  claim: kasm-db-data
  waits: [{name: {{ $r }}-db-data-perms, perms: true}]
  storageClass: {{ .Values.database.storage.storageClassName | quote }}
{{- end }}
- key: api
  name: {{ $r }}-api
  workload: {{ $r }}-api-deployment
  service: kasm-api
  container: {{ $r }}-api-container
  ports: [8080]
  health: /api/__healthcheck
  waits: [{name: db-is-ready, database: initialised}]
- key: manager
  name: {{ $r }}-manager-default
  workload: {{ $r }}-manager-default-deployment
  service: kasm-manager-default
  container: {{ $r }}-manager-default-container
  ports: [8181]
  health: /__healthcheck
  secretKeys: [manager-token]
  waits: [{{ $api }}]
{{- if $given.guac.enabled }}
- key: guac
  name: {{ $r }}-guac
  workload: {{ $r }}-guac-deployment
  service: kasm-guac
  container: {{ $r }}-guac-container
  ports: [3000, 3001, 3002, 3003, 3004]
  declares: [3000]
  health: /__healthcheck
  secretKeys: [service-token]
  waits:
    {{- if .Values.applySecurity }}
    - {name: {{ $r }}-guac-tmp-perms, perms: true}
    {{- end }}
    - {{ $api }}
{{- end }}
{{- if $given.rdpGateway.enabled }}
- key: rdp-gateway
  name: {{ $r }}-rdp-gateway
  workload: {{ $r }}-rdp-gw-deployment
  service: kasm-rdp-gateway
  container: {{ $r }}-rdp-gw-container
  ports: [5555, 3389]
  declares: [5555]
  health: /__healthcheck
  secretKeys: [service-token]
  waits:
    - {name: {{ $r }}-rdp-gw-tmp-perms, perms: true}
    - {{ $api }}
{{- end }}
{{- if $given.rdpHttpsGateway.enabled }}
- key: rdp-https-gateway
  name: {{ $r }}-rdp-https-gateway
  workload: {{ $r }}-rdp-https-gw-deployment
  service: kasm-rdp-https-gateway
  container: {{ $r }}-rdp-https-gw-container
  ports: [9443]
  waits:
    - {{ $api }}
    {{- if .Values.applySecurity }}
    - {name: {{ $r }}-rdp-https-gw-tmp-perms, perms: true}
    {{- end }}
{{- end }}
- key: proxy
  name: {{ $r }}-proxy-default
  workload: {{ $r }}-proxy-default-deployment
  service: kasm-proxy-default
  container: {{ $r }}-proxy-container
  ports: [8080, 8443]
  declares: [8080]
  certificate: {{ .Values.certificate.secretName | default "kasm-nginx-proxy-cert" }}
  configMap: {{ $r }}-proxy-base-configmap
  waits:
    {{- if .Values.applySecurity }}
    - {name: {{ $r }}-proxy-data-perms, perms: true}
    {{- end }}
    - {{ $api }}
    - {name: kasm-manager-default-is-ready, url: "http://kasm-manager-default:8181/__healthcheck"}
    {{- if $given.guac.enabled }}
    - {name: kasm-guac-is-ready, url: "http://kasm-guac:3000/__healthcheck"}
    {{- end }}
    {{- if $given.rdpGateway.enabled }}
    - {name: kasm-rdp-gateway-is-ready, url: "http://kasm-rdp-gateway:5555/__healthcheck"}
    {{- end }}
{{- end }}
