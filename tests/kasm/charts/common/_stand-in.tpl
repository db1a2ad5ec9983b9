{{/* What the three charts have in common: containers that wait, serve and crash as Kasm's do. Linked into each of them.
     `part` is one entry of the chart's list of parts, `labels` are those of the chart's generation. */}}

{{- define "stand-in.scripts" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: stand-in-scripts
data:
  curl: | {{- .Files.Get "files/curl" | nindent 4 }}
  redis-cli: | {{- .Files.Get "files/redis-cli" | nindent 4 }}
  serve: | {{- .Files.Get "files/serve" | nindent 4 }}
{{- end }}

{{- define "stand-in.security" }}
securityContext:
  allowPrivilegeEscalation: false
  runAsNonRoot: true
  runAsUser: {{ .user | default 1000 }}
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "stand-in.program" }}
image: {{ .image | default .Values.images.program }}
imagePullPolicy: IfNotPresent
{{- end }}

{{/* An init container; `wait` has one of: url, redis, perms, copies, database. */}}
{{- define "stand-in.wait" }}
- name: {{ .wait.name }}
  {{- if .wait.database }}
  image: {{ .Values.images.database }}
  imagePullPolicy: IfNotPresent
  command: [/bin/bash, -c]
  {{- include "stand-in.security" (dict "user" 999) | nindent 2 }}
  env: {{- include "stand-in.credentials" . | nindent 4 }}
  args:
    - |
      {{- if eq .wait.database "answers" }}
      while ! pg_isready -h "${POSTGRES_HOST}" -p "${POSTGRES_PORT}" -t 10; do echo "Waiting for DB..."; sleep {{ .Values.waitSeconds }}; done
      {{- else }}
      while [ ! $(PGPASSWORD="${POSTGRES_PASSWORD}" psql -U "${POSTGRES_USER}" -d "${POSTGRES_DB}" -p "${POSTGRES_PORT}" -h "${POSTGRES_HOST}" -t -c "select zone_id from zones" 2>/dev/null | wc -l) -ge 2 ]; do
        echo "Waiting for DB to initialize..."
        sleep {{ .Values.waitSeconds }}
      done
      {{- end }}
  {{- else if .wait.perms }}
  {{- include "stand-in.program" . | nindent 2 }}
  command: [/bin/sh, -ec]
  {{- $user := ternary 999 1000 (.part.database | default false) }}
  args: ["chown -R {{ $user }}:{{ $user }} /data && chmod -R {{ ternary "0700" "755" (.part.database | default false) }} /data"]
  securityContext: {runAsNonRoot: false, runAsUser: 0}
  volumeMounts:
    - {name: {{ .part.claim | default "data" }}, mountPath: /data}
  {{- else if .wait.copies }}
  {{- include "stand-in.program" . | nindent 2 }}
  command: [/bin/true]
  {{- include "stand-in.security" . | nindent 2 }}
  {{- else }}
  {{- include "stand-in.program" . | nindent 2 }}
  command: [/bin/sh, -ec]
  {{- include "stand-in.security" . | nindent 2 }}
  env:
    - {name: PATH, value: "/stand-in:/usr/bin:/bin"}
  args:
    - |
      {{- if .wait.redis }}
      until redis-cli -h {{ .wait.redis }} -p 6379 ping | grep -q PONG; do echo "Waiting for Redis..."; sleep {{ .Values.waitSeconds }}; done
      {{- else }}
      while ! curl "{{ .wait.url }}" 2>/dev/null; do echo "Waiting for the {{ .wait.name }} server to start..."; sleep {{ .Values.waitSeconds }}; done
      echo "up. Connecting!"
      {{- end }}
  volumeMounts:
    - {name: stand-in, mountPath: /stand-in}
  {{- end }}
{{- end }}

{{- define "stand-in.credentials" }}
- {name: POSTGRES_HOST, value: {{ .database.host | quote }}}
- {name: POSTGRES_PORT, value: "5432"}
- {name: POSTGRES_DB, value: kasm}
- {name: POSTGRES_USER, value: kasmapp}
- name: POSTGRES_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .database.secret }}, key: db-password}}
{{- end }}

{{/* As in the charts: whoever is not there after a while is started again. */}}
{{- define "stand-in.liveness" }}
initialDelaySeconds: 30
periodSeconds: 30
failureThreshold: 3
timeoutSeconds: 5
{{- end }}

{{- define "stand-in.probe" }}
initialDelaySeconds: {{ .Values.probes.initialDelaySeconds }}
periodSeconds: {{ .Values.probes.periodSeconds }}
failureThreshold: {{ .Values.probes.failureThreshold }}
timeoutSeconds: 5
{{- end }}

{{/* The container of one part. */}}
{{- define "stand-in.server" }}
{{- $port := .part.healthPort | default (first .part.ports) }}
- name: {{ .part.container }}
  {{- include "stand-in.security" (dict "user" (ternary 999 1000 (.part.database | default false))) | nindent 2 }}
  resources: {{- toYaml (.part.resources | default .Values.resources) | nindent 4 }}
  {{- if .part.database }}
  image: {{ .part.image | default .Values.images.database }}
  imagePullPolicy: IfNotPresent
  command: [/bin/sh, -ec]
  args:
    - |
      umask 077
      printf %s "$POSTGRES_PASSWORD" > /tmp/password
      exec vdi-postgresql
  env:
    {{- include "stand-in.credentials" . | nindent 4 }}
    - {name: POSTGRES_PASSWORD_FILE, value: /tmp/password}
    - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
  volumeMounts:
    - {name: {{ .part.claim }}, mountPath: /var/lib/postgresql/data}
  livenessProbe:
    exec: {command: [/bin/sh, -c, "pg_isready --port=5432 -t 10"]}
    {{- include "stand-in.liveness" . | nindent 4 }}
  readinessProbe:
    exec: {command: [/bin/sh, -c, "psql -d ${POSTGRES_DB} -U ${POSTGRES_USER} -c 'SELECT 1' || exit 1"]}
    {{- include "stand-in.probe" . | nindent 4 }}
  {{- else }}
  {{- include "stand-in.program" (merge (dict "image" .part.image) .) | nindent 2 }}
  command: [{{ .part.program | default "/stand-in/serve" }}, {{ .part.health | default "/" | quote }}{{ range .part.listens | default .part.ports }}, {{ . | quote }}{{ end }}]
  env:
    {{- range $name, $value := .part.env }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
    {{- range .part.secretKeys }}
    - name: {{ . | upper | replace "-" "_" }}
      valueFrom: {secretKeyRef: {name: {{ $.database.secret }}, key: {{ . }}}}
    {{- end }}
  volumeMounts:
    - {name: stand-in, mountPath: /stand-in}
    {{- if .part.certificate }}
    - {name: cert, mountPath: /etc/ssl/private/kasm_nginx.key, subPath: tls.key}
    {{- end }}
    {{- if .part.configMap }}
    - {name: config, mountPath: /etc/kasm}
    {{- end }}
  livenessProbe:
    tcpSocket: {port: {{ $port }}}
    {{- include "stand-in.liveness" . | nindent 4 }}
  readinessProbe:
    {{- if .part.health }}
    httpGet: {path: {{ .part.health }}, port: {{ $port }}}
    {{- else }}
    tcpSocket: {port: {{ $port }}}
    {{- end }}
    {{- include "stand-in.probe" . | nindent 4 }}
  {{- end }}
  ports: {{- /* As Kasm's charts: not every port that it listens on is declared. */}}
    {{- range .part.declares | default .part.ports }}
    - {containerPort: {{ . }}, protocol: TCP}
    {{- end }}
{{- with .part.nginx }}
- name: {{ .name }}
  {{- include "stand-in.security" (dict) | nindent 2 }}
  {{- include "stand-in.program" $ | nindent 2 }}
  resources: {{- toYaml $.Values.resources | nindent 4 }}
  command: [/stand-in/serve, {{ $.part.health | default "/" | quote }}, {{ .port | quote }}]
  volumeMounts:
    - {name: stand-in, mountPath: /stand-in}
  ports:
    - {containerPort: {{ .port }}, protocol: TCP}
{{- end }}
{{- end }}

{{/* Deployment or StatefulSet of one part, and its Service. `absent`: the Service alone, as A leaves guac's. */}}
{{- define "stand-in.part" }}
{{- if not .part.absent }}
---
apiVersion: apps/v1
kind: {{ .part.kind | default "Deployment" }}
metadata:
  name: {{ .part.workload }}
  labels: {{- toYaml .labels | nindent 4 }}
spec:
  replicas: {{ .part.replicas | default 1 }}
  {{- if eq (.part.kind | default "Deployment") "StatefulSet" }}
  serviceName: {{ .part.service }}
  {{- end }}
  selector:
    matchLabels: {{- toYaml .match | nindent 6 }}
  template:
    metadata:
      labels: {{- toYaml .labels | nindent 8 }}
    spec:
      terminationGracePeriodSeconds: 2
      {{- with .part.waits }}
      initContainers:
        {{- range . }}
        {{- include "stand-in.wait" (merge (dict "wait" .) $) | nindent 8 }}
        {{- end }}
      {{- end }}
      containers:
        {{- include "stand-in.server" . | nindent 8 }}
      volumes:
        - name: stand-in
          configMap: {name: stand-in-scripts, defaultMode: 0755}
        - name: data
          emptyDir: {}
        {{- with .part.certificate }}
        - name: cert
          secret: {secretName: {{ . }}}
        {{- end }}
        {{- with .part.configMap }}
        - name: config
          configMap: {name: {{ . }}}
        {{- end }}
  {{- if .part.claim }}
  volumeClaimTemplates:
    - metadata: {name: {{ .part.claim }}}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .part.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: 1Gi}}
  {{- end }}
{{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .part.service }}
  labels: {{- toYaml .labels | nindent 4 }}
spec:
  selector: {{- toYaml (.part.selector | default .match) | nindent 4 }}
  ports:
    {{- range .part.ports }}
    - {name: "port-{{ . }}", protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* The Job that makes the database's tables. */}}
{{- define "stand-in.db-init" }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .part.workload }}
  labels: {{- toYaml .labels | nindent 4 }}
spec:
  ttlSecondsAfterFinished: {{ .part.ttl | default 300 }}
  backoffLimit: {{ ternary .Values.initTries 6 (hasKey .Values "initTries") }}
  template:
    metadata:
      labels: {{- toYaml .labels | nindent 8 }}
    spec:
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 2
      initContainers:
        {{- include "stand-in.wait" (merge (dict "wait" (dict "name" "db-is-ready" "database" "answers")) .) | nindent 8 }}
      containers:
        - name: {{ .part.container }}
          image: {{ .Values.images.database }}
          imagePullPolicy: IfNotPresent
          {{- include "stand-in.security" (dict "user" 999) | nindent 10 }}
          env:
            {{- include "stand-in.credentials" . | nindent 12 }}
            {{- range tuple "admin-password" "manager-token" "service-token" "user-password" }}
            - name: DEFAULT_{{ . | upper | replace "-" "_" }}
              valueFrom: {secretKeyRef: {name: {{ $.database.secret }}, key: {{ . }}}}
            {{- end }}
          command: [/bin/bash, -ec]
          args:
            - |
              export PGPASSWORD="${POSTGRES_PASSWORD}"
              psql -v ON_ERROR_STOP=1 -U "${POSTGRES_USER}" -d "{{ .Values.initDatabase | default "kasm" }}" -h "${POSTGRES_HOST}" <<'SQL'
              create table if not exists zones (zone_id text);
              insert into zones select 'default' where not exists (select from zones);
              SQL
{{- end }}

{{/* Passwords, as the charts make them: new ones at the first installation, then always the same. */}}
{{- define "stand-in.secrets" }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ .database.secret }}
  labels: {{- toYaml .labels | nindent 4 }}
data:
  {{- $there := (lookup "v1" "Secret" .Release.Namespace .database.secret).data | default dict }}
  {{- range tuple "db-password" "admin-password" "manager-token" "service-token" "user-password" }}
  {{ . }}: {{ get $there . | default (randAlphaNum 26 | b64enc) }}
  {{- end }}
{{- end }}

{{/* Passwords as A makes them: a hook, so new ones at each installation but for those that the values give. */}}
{{- define "stand-in.hook-secrets" }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ .database.secret }}
  labels: {{- toYaml .labels | nindent 4 }}
  annotations: {helm.sh/hook: "pre-install,post-delete"}
data:
  {{- range $key, $value := .Values.global.kasmPasswords }}
  {{ kebabcase $key }}: {{ default (randAlphaNum 26) $value | b64enc }}
  {{- end }}
{{- end }}

{{- define "stand-in.certificate" }}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: {{ .name }}
  labels: {{- toYaml .labels | nindent 4 }}
data:
  {{- $made := genSelfSignedCert .host nil (list .host) 365 }}
  tls.crt: {{ $made.Cert | b64enc }}
  tls.key: {{ $made.Key | b64enc }}
{{- end }}

{{- define "stand-in.config" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  labels: {{- toYaml .labels | nindent 4 }}
data:
  settings.conf: "# stands for nginx's settings"
{{- end }}

{{- define "stand-in.ingress" }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name }}
  labels: {{- toYaml .labels | nindent 4 }}
spec:
  {{- with .class }}
  ingressClassName: {{ . }}
  {{- end }}
  tls:
    - hosts: [{{ .host }}]
      secretName: {{ .secret }}
  rules:
    - host: {{ .host }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: {{ .service }}, port: {number: 8080}}}
{{- end }}
