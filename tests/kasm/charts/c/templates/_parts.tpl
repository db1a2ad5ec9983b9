{{- define "parts" }}
{{- $r := .Release.Name }}
{{- $given := .Values.components }}
{{- $api := dict "name" (printf "%s-api-is-ready" $r) "url" (printf "http://%s-api-default:8080/api/__healthcheck" $r) | toJson }}
{{- $through := dict "name" (printf "%s-api-is-ready" $r) "url" (printf "http://%s-proxy-default:8080/api/__healthcheck" $r) | toJson }}
{{- if not .Values.database.standalone }}
- key: db
  name: {{ $r }}-db
  workload: {{ $r }}-db-{{ .Chart.AppVersion | replace "." "-" }}
  kind: StatefulSet
  service: {{ $r }}-db
  container: {{ $r }}-db
  ports: [5432]
  database: true
  claim: {{ $r }}-database
  storageClass: {{ .Values.database.storage.storageClassName | quote }}
{{- end }}
- key: api
  name: {{ $r }}-api-default
  workload: {{ $r }}-api-default
  service: {{ $r }}-api-default
  container: {{ $r }}-api-default
  ports: [8080]
  health: /api/__healthcheck
  waits: [{name: db-is-ready, database: initialised}]
- key: manager
  name: {{ $r }}-manager-default
  workload: {{ $r }}-manager-default
  service: {{ $r }}-manager-default
  container: {{ $r }}-manager-default
  ports: [8181]
  health: /__healthcheck
  secretKeys: [manager-token]
  waits: [{name: db-is-ready, database: initialised}, {{ $api }}]
{{- if $given.guac.enabled }}
- key: guac
  name: {{ $r }}-guac-default
  workload: {{ $r }}-guac-default
  kind: StatefulSet
  service: {{ $r }}-guac-default
  container: {{ $r }}-guac
  ports: [9000, 3000]
  listens: [3000]
  declares: [3000]
  nginx: {name: {{ $r }}-guac-nginx, port: 9000}
  healthPort: 3000
  health: /__healthcheck
  secretKeys: [service-token]
  waits: [{{ $through }}, {name: {{ $r }}-guac-nginx-conf-init, copies: true}]
{{- end }}
{{- if $given.rdpGateway.enabled }}
- key: rdp-gateway
  name: {{ $r }}-rdp-gateway-default
  workload: {{ $r }}-rdp-gateway-default
  service: {{ $r }}-rdp-gateway-default
  container: {{ $r }}-rdp-gateway
  ports: [9001, 5555, 3389]
  listens: [5555, 3389]
  declares: [5555]
  nginx: {name: {{ $r }}-rdp-gateway-nginx, port: 9001}
  healthPort: 5555
  health: /__healthcheck
  secretKeys: [service-token]
  waits: [{{ $through }}]
{{- end }}
{{- if $given.rdpHttpsGateway.enabled }}
- key: rdp-https-gateway
  name: {{ $r }}-rdp-https-gateway-default
  workload: {{ $r }}-rdp-https-gateway-default
  kind: StatefulSet
  service: {{ $r }}-rdp-https-gateway-default
  container: {{ $r }}-rdp-https-gateway
  ports: [9002, 9443]
  listens: [9443]
  declares: [9443]
  nginx: {name: {{ $r }}-rdp-https-gateway-nginx, port: 9002}
  healthPort: 9443
  waits: [{{ $through }}, {name: {{ $r }}-rdp-https-gateway-nginx-conf-init, copies: true}]
{{- end }}
- key: proxy
  name: {{ $r }}-proxy-default
  workload: {{ $r }}-proxy-default
  service: {{ $r }}-proxy-default
  container: {{ $r }}-proxy-default
  ports: [8080, 8443]
  certificate: {{ .Values.certificate.secretName | default (printf "%s-cert-manager" $r) }}
  configMap: {{ $r }}-proxy-base-config
  waits:
    {{- if .Values.trustedCaBundle.enabled }}
    - {name: trusted-ca-init, copies: true}
    {{- end }}
    - {{ $api }}
    - {name: {{ $r }}-manager-is-ready, url: "http://{{ $r }}-manager-default:8181/__healthcheck"}
    {{- if .Values.circularWait }}
    - {name: {{ $r }}-guac-is-ready, url: "http://{{ $r }}-guac-default:9000/guac/__healthcheck"}
    - {name: {{ $r }}-rdp-gateway-is-ready, url: "http://{{ $r }}-rdp-gateway-default:9001/__healthcheck"}
    {{- end }}
{{- end }}
