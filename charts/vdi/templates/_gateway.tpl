{{- define "vdi.gateway.name" -}}vdi-gateway{{- end }}

{{- define "vdi.gateway.selectorLabels" -}}
app.kubernetes.io/name: vdi
app.kubernetes.io/component: gateway
{{- end }}

{{- define "vdi.gateway.labels" -}}
{{ include "vdi.gateway.selectorLabels" . }}
{{ include "vdi.releaseLabels" . }}
{{- end }}

{{/* Where Traefik and the operator ask, not browsers. */}}
{{- define "vdi.gateway.internalURL" -}}
http://{{ include "vdi.gateway.name" . }}.{{ .Release.Namespace }}.svc:8081
{{- end }}

{{/* The Middleware in the sessions' namespace that every request to a desktop passes: it asks the gateway. */}}
{{- define "vdi.gateway.middleware" -}}vdi-edge{{- end }}

{{/* The Secret with the database's URL: of a server somewhere, or of the one that this release brings; empty: SQLite. */}}
{{- define "vdi.gateway.databaseSecret" -}}
{{- $given := .Values.gateway.database.existingSecret }}
{{- if and $given .Values.postgresql.enabled }}
{{- fail (printf "postgresql.enabled: allowed: true, or gateway.database.existingSecret (%s), not both" $given) }}
{{- end }}
{{- if .Values.postgresql.enabled }}
{{- include "postgresql.secret" (dict "Values" .Values.postgresql "Release" .Release) }}
{{- else }}{{ $given }}{{ end }}
{{- end }}

{{/* The Secret with the URL of what replicas share; empty: nothing is shared. */}}
{{- define "vdi.gateway.redisSecret" -}}
{{- $given := .Values.gateway.redis.existingSecret }}
{{- if and $given .Values.redis.enabled }}
{{- fail (printf "redis.enabled: allowed: true, or gateway.redis.existingSecret (%s), not both" $given) }}
{{- end }}
{{- if .Values.redis.enabled }}
{{- include "redis.secret" (dict "Values" .Values.redis "Release" .Release) }}
{{- else }}{{ $given }}{{ end }}
{{- end }}

{{/* The Secret that the TURN server's credentials are made from; empty: there is no TURN server. */}}
{{- define "vdi.gateway.turnSecret" -}}
{{- $given := .Values.gateway.turn.existingSecret }}
{{- if .Values.gateway.turn.urls }}
{{- if and $given .Values.coturn.enabled }}
{{- fail (printf "coturn.enabled: allowed: true, or gateway.turn.existingSecret (%s), not both; coturn.auth.existingSecret names one for both" $given) }}
{{- end }}
{{- if .Values.coturn.enabled }}
{{- include "coturn.secret" (dict "Values" .Values.coturn "Release" .Release) }}
{{- else }}
{{- $given | required "gateway.turn.urls: needs coturn.enabled, or gateway.turn.existingSecret with the secret of a TURN server elsewhere" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Secrets in the sessions' namespaces with which the edge signs in at images with basic auth: those of `templates`, and
those that are named for templates made elsewhere. A JSON list. */}}
{{- define "vdi.basicAuthSecrets" -}}
{{- $names := .Values.gateway.basicAuthSecrets }}
{{- range .Values.templates }}
{{- with (. | default dict).basicAuthSecret }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* `use`: the database is SQLite, a file on a volume of the gateway's own. `move`: the pod copies that file to PostgreSQL. Empty:
the database is PostgreSQL. Fails where a gateway that uses SQLite would lose what it has. */}}
{{- define "vdi.gateway.sqlite" -}}
{{- $choice := .Values.gateway.database.sqlite }}
{{- if not (include "vdi.gateway.databaseSecret" .) }}
{{- if $choice }}{{ fail (printf "gateway.database.sqlite: %s: allowed with postgresql.enabled or gateway.database.existingSecret; these values use SQLite" $choice) }}{{ end }}use
{{- else if eq $choice "move" }}move
{{- else if not $choice }}
{{- range ((((lookup "apps/v1" "Deployment" .Release.Namespace (include "vdi.gateway.name" .)).spec).template).spec).containers }}
{{- if and (eq .name "gateway") (not (contains "VDI_DATABASE_URL" (toJson .env))) }}
{{- fail "gateway.database.sqlite: the logins, API tokens, history and audit in SQLite would be left behind; allowed: move (vdi upgrade --move-history), leave (vdi upgrade --leave-history-behind)" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The gateway's values for vdi.placement. Both gateways of a move need the claim, which one node has. */}}
{{- define "vdi.gateway.placement" -}}
{{- $values := deepCopy .Values.gateway }}
{{- if eq (include "vdi.gateway.sqlite" .) "move" }}
{{- $labels := include "vdi.gateway.selectorLabels" . | fromYaml }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $labels) }}
{{- $_ := set $values "affinity" (dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term))) }}
{{- end }}
{{- toYaml $values }}
{{- end }}

{{/* One host below the domain, as Traefik's HostRegexp takes it. */}}
{{- define "vdi.gateway.anyHost" -}}
HostRegexp(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?\.{{ .Values.domain | replace "." "\\." }}$`)
{{- end }}

{{/* Several replicas must share what one keeps for itself. */}}
{{- define "vdi.gateway.refuseLoneReplicas" -}}
{{- $replicas := int .Values.gateway.replicas }}
{{- if gt $replicas 1 }}
{{- $missing := list }}
{{- if not (include "vdi.gateway.databaseSecret" .) }}{{ $missing = append $missing "postgresql.enabled or gateway.database.existingSecret" }}{{ end }}
{{- if not (include "vdi.gateway.redisSecret" .) }}{{ $missing = append $missing "redis.enabled or gateway.redis.existingSecret" }}{{ end }}
{{- if $missing }}
{{- fail (printf "gateway.replicas: %d: allowed: 1, or more with %s set: replicas share the database and their state" $replicas (join ", and " $missing)) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "vdi.gateway.env" -}}
- name: VDI_NAMESPACE
  value: {{ include "vdi.sessions.namespaces" . | fromJsonArray | join "," | quote }}
{{- with .Values.sessions.groupNamespaces }}
- name: VDI_GROUP_NAMESPACES
  value: {{ toJson . | quote }}
{{- end }}
- name: VDI_GATEWAY_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: VDI_GATEWAY_URL
  value: {{ include "vdi.gateway.internalURL" . | quote }}
- name: VDI_DOMAIN
  value: {{ .Values.domain | quote }}
- name: VDI_URL_PORT
  value: {{ .Values.urlPort | int | quote }}
- name: VDI_OPERATOR_ACCOUNT
  value: {{ printf "system:serviceaccount:%s:%s" .Release.Namespace (include "vdi.name" .) | quote }}
{{- if include "vdi.probe.image" . }}
- name: VDI_PROBE_ACCOUNT
  value: {{ printf "system:serviceaccount:%s:%s" .Release.Namespace (include "vdi.probe.name" .) | quote }}
{{- end }}
{{- with .Values.gateway.recordings }}
{{- with .quota }}
- name: VDI_RECORDINGS_QUOTA
  value: {{ . | quote }}
{{- end }}
{{- if .claim }}
- name: VDI_RECORDINGS
  value: /recordings
{{- else if .s3.bucket }}
- name: VDI_RECORDINGS
  value: {{ printf "s3://%s/%s" .s3.bucket .s3.prefix | quote }}
- name: AWS_REGION
  value: {{ .s3.region | quote }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ .s3.endpoint | quote }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .s3.existingSecret }}
      key: accessKeyId
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .s3.existingSecret }}
      key: secretAccessKey
{{- end }}
{{- end }}
- name: VDI_LIMITS_FILE
  value: /etc/vdi/limits.yaml
{{- with include "vdi.gateway.databaseSecret" . }}
- name: VDI_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
{{- end }}
{{- with include "vdi.gateway.redisSecret" . }}
- name: VDI_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: url
{{- end }}
{{- if include "vdi.gateway.turnSecret" . }}
- name: VDI_TURN_URLS
  value: {{ join "," .Values.gateway.turn.urls | quote }}
- name: VDI_TURN_SECRET_FILE
  value: /etc/vdi-turn/secret
- name: VDI_TURN_TTL
  value: {{ .Values.gateway.turn.ttl | quote }}
{{- end }}
{{- with .Values.gateway }}
{{- with .oidc }}
{{- if .issuer }}
- name: VDI_OIDC_ISSUER
  value: {{ .issuer | quote }}
- name: VDI_OIDC_CLIENT_ID
  value: {{ .clientId | quote }}
{{- with .existingSecret }}
- name: VDI_OIDC_CLIENT_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: clientSecret
{{- end }}
- name: VDI_OIDC_SCOPES
  value: {{ .scopes | quote }}
- name: VDI_OIDC_GROUPS_CLAIM
  value: {{ .groupsClaim | quote }}
- name: VDI_OIDC_NAME
  value: {{ .name | quote }}
- name: VDI_OIDC_REQUIRE_VERIFIED
  value: {{ .requireVerified | quote }}
{{- end }}
{{- end }}
{{- with .adminUsers }}
- name: VDI_ADMIN_USERS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .adminGroups }}
- name: VDI_ADMIN_GROUPS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .auditorUsers }}
- name: VDI_AUDITOR_USERS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .auditorGroups }}
- name: VDI_AUDITOR_GROUPS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $.Values.sessions.maxTimeout }}
- name: VDI_MAX_TIMEOUT
  value: {{ . | quote }}
{{- end }}
{{- with .portal.name }}
- name: VDI_BRAND_NAME
  value: {{ . | quote }}
{{- end }}
{{- with .portal.logo }}
- name: VDI_BRAND_LOGO
  value: {{ . | quote }}
{{- end }}
{{- with .portal.accent }}
- name: VDI_BRAND_ACCENT
  value: {{ . | quote }}
{{- end }}
{{- with .portal.banner }}
- name: VDI_BRAND_BANNER
  value: {{ . | quote }}
{{- end }}
{{- with .portal.terms }}
- name: VDI_BRAND_TERMS
  value: {{ . | quote }}
{{- end }}
{{- with .portal.supportUrl }}
- name: VDI_BRAND_SUPPORT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .portal.iconOrigins }}
- name: VDI_ICON_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
{{- with .notices.webhook }}
{{- if .url }}
- name: VDI_WEBHOOK_URL
  value: {{ .url | quote }}
{{- if .allowLocal }}
- name: VDI_WEBHOOK_ALLOW_LOCAL
  value: "true"
{{- end }}
- name: VDI_WEBHOOK_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: secret
{{- end }}
{{- end }}
{{- with .notices.email }}
{{- if .existingSecret }}
- name: VDI_SMTP_URL
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: url
- name: VDI_SMTP_FROM
  value: {{ .from | quote }}
{{- end }}
{{- end }}
- name: VDI_RETENTION_DAYS
  value: {{ .retentionDays | int | quote }}
- name: VDI_HASH_FILE_NAMES
  value: {{ .hashFileNames | quote }}
- name: VDI_TOKEN_SECONDS
  value: {{ .login.tokenSeconds | int | quote }}
- name: VDI_LOGIN_IDLE
  value: {{ .login.idle | quote }}
- name: VDI_LOGIN_MAX
  value: {{ .login.max | quote }}
- name: VDI_TRUSTED_PROXIES
  value: {{ join "," .trustedProxies | quote }}
{{- end }}
{{- if .Values.doctor.schedule }}
- name: VDI_DOCTOR_RECORD
  value: {{ include "vdi.doctor.name" . | quote }}
{{- end }}
{{- if .Values.gateway.caBundle.configMap }}
- name: SSL_CERT_FILE
  value: /etc/vdi-ca/ca.crt
- name: SSL_CERT_DIR # the system's, beside it; the client of S3 reads it only if it is named
  value: /etc/ssl/certs
{{- end }}
{{- with .Values.gateway.proxy }}
{{- with .https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .noProxy }}
- name: NO_PROXY
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}
- name: VDI_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- end }}

{{/* The Secrets that the release brings empty and the gateway's init container fills, as a list. */}}
{{- define "vdi.gateway.serverSecrets" -}}
{{- range $name := list "postgresql" "redis" "coturn" }}
{{- $values := index $.Values $name }}
{{- if and $values.enabled (not $values.auth.existingSecret) }}
- {{- include (printf "%s.contents" $name) (dict "Values" $values "Release" $.Release) | nindent 2 }}
{{- if and (eq $name "coturn") (include "vdi.gateway.drawsTurn" $) }}
  files: {/etc/vdi-turn/secret: {{ include "coturn.secretKeys" (dict "Values" $values "Release" $.Release) | fromYamlArray | first }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether the gateway draws the TURN server's secret; empty: it is mounted from a Secret that exists. */}}
{{- define "vdi.gateway.drawsTurn" -}}
{{- if and .Values.coturn.enabled (not .Values.coturn.auth.existingSecret) (include "vdi.gateway.turnSecret" .) }}yes{{ end }}
{{- end }}
