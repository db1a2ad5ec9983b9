{{- define "parts" }}
{{- $deploy := .Values.kasmApp.servicesToDeploy }}
{{- $hardened := .Values.kasmApp.applyHardening }}
{{- $api := dict "name" "kasm-api-is-ready" "url" "http://kasm-api:8080/api/__healthcheck" | toJson }}
- {key: db, name: kasm-db, workload: kasm-db-statefulset, kind: StatefulSet, service: db, container: kasm-db-container, ports: [5432], database: true, claim: kasm-db-data, waits: [{name: db-data-perms, perms: true}]}
- {key: kasmRedis, name: kasm-redis, workload: kasm-redis-deployment, service: kasm-redis, container: kasm-redis-container, ports: [6379]}
- key: kasmApi
  name: kasm-api
  workload: kasm-api-deployment
  service: kasm-api
  container: kasm-api-container
  ports: [8080]
  health: /api/__healthcheck
  waits: [{name: db-is-ready, database: initialised}]
- key: kasmManager
  name: kasm-manager
  workload: kasm-manager-deployment
  service: kasm-manager
  container: kasm-manager-container
  ports: [8181]
  health: /__healthcheck
  secretKeys: [manager-token]
  waits: [{{ $api }}]
{{- if $deploy.kasmShare.deploy }}
- key: kasmShare
  name: kasm-share
  workload: kasm-share-deployment
  service: kasm-share
  container: kasm-share-container
  ports: [8182]
  health: /__healthcheck
  waits: [{name: redis-is-ready, redis: kasm-redis}, {{ $api }}]
{{- end }}
- key: kasmGuac
  absent: {{ not $deploy.kasmGuac.deploy }}
  name: kasm-guac
  workload: kasm-guac-deployment
  service: kasm-guac
  container: kasm-guac-container
  ports: [3000, 3001, 3002, 3003, 3004]
  declares: [3000]
  health: /__healthcheck
  secretKeys: [service-token]
  waits:
    {{- if $hardened }}
    - {name: guac-tmp-perms, perms: true}
    {{- end }}
    - {{ $api }}
{{- if $deploy.rdpGateway.deploy }}
- key: rdpGateway
  name: rdp-gateway
  workload: rdp-gateway-deployment
  service: rdp-gateway
  container: rdp-gateway-container
  ports: [5555, 3389]
  declares: [5555]
  health: /__healthcheck
  secretKeys: [service-token]
  waits:
    - {name: rdp-gateway-tmp-perms, perms: true}
    - {{ $api }}
{{- end }}
{{- if $deploy.rdpHttpsGateway.deploy }}
- key: rdpHttpsGateway
  name: rdp-https-gw
  workload: rdp-https-gw-deployment
  service: rdp-https-gateway
  container: rdp-https-gw-container
  ports: [9443]
  waits:
    - {{ $api }}
    {{- if $hardened }}
    - {name: rdp-https-gateway-tmp-perms, perms: true}
    {{- end }}
{{- end }}
- key: kasmProxy
  name: kasm-proxy
  workload: kasm-proxy-deployment
  service: kasm-proxy
  container: kasm-proxy-container
  ports: [8080, 8443]
  declares: [8080]
  certificate: {{ .Values.kasmCerts.kasmProxy.name }}
  configMap: kasm-proxy-configmap
  waits:
    {{- if $hardened }}
    - {name: proxy-data-perms, perms: true}
    {{- end }}
    - {{ $api }}
    - {name: kasm-manager-is-ready, url: "http://kasm-manager:8181/__healthcheck"}
    {{- if $deploy.kasmShare.deploy }}
    - {name: kasm-share-is-ready, url: "http://kasm-share:8182/__healthcheck"}
    {{- end }}
    {{- if $deploy.kasmGuac.deploy }}
    - {name: kasm-guac-is-ready, url: "http://kasm-guac:3000/__healthcheck"}
    {{- end }}
    {{- if $deploy.rdpGateway.deploy }}
    - {name: rdp-gateway-is-ready, url: "http://rdp-gateway:5555/__healthcheck"}
    {{- end }}
{{- end }}
