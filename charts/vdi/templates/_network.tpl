{{/* Pods of the release's own namespace, from wherever it is asked. Given: the root and the pods' labels as YAML. */}}
{{- define "vdi.network.own" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ (index . 0).Release.Namespace }}
  podSelector:
    matchLabels:
      {{- index . 1 | nindent 6 }}
{{- end }}

{{/* The desktops: those of sessions and those that wait in pools, but not the pods that only fetch an image. */}}
{{- define "vdi.network.desktops" -}}
matchLabels:
  app.kubernetes.io/managed-by: vdi-operator
matchExpressions:
  - {key: vdi.kasm.io/prepull, operator: DoesNotExist}
{{- end }}

{{/* Egress rule: names. */}}
{{- define "vdi.network.dns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  to:
    {{- toYaml .Values.network.dns | nindent 4 }}
{{- end }}

{{/* Ports of the API server: `network.apiServerPorts`, and those found, as JSON texts. */}}
{{- define "vdi.network.apiServerPorts" -}}
{{- $ports := .Values.network.apiServerPorts }}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" }}
{{- range $slice.ports }}{{ $ports = append $ports .port }}{{ end }}
{{- $ports | toStrings | uniq | toJson }}
{{- end }}

{{/*
Egress rule: the API server. A policy sees its own address and port, not those of the Service `kubernetes`. Which
address that is only the cluster knows, and it changes with its servers: unless it is named, the ports are open to every
address. Without `to`, since some plugins do not take nodes for an ipBlock.
*/}}
{{- define "vdi.network.apiServer" -}}
- ports:
    {{- range include "vdi.network.apiServerPorts" . | fromJsonArray }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.network.apiServer }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Addresses that are not the internet: `network.notInternet`, and the API server's, named or found; as JSON. */}}
{{- define "vdi.network.notInternet" -}}
{{- $found := list }}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" }}
{{- range $slice.endpoints }}
{{- range .addresses }}{{ $found = append $found (printf "%s/%s" . (ternary "128" "32" (contains ":" .))) }}{{ end }}
{{- end }}
{{- concat .Values.network.notInternet .Values.network.apiServer $found | uniq | toJson }}
{{- end }}

{{/* Egress rule: the internet. */}}
{{- define "vdi.network.internet" -}}
{{- $not := include "vdi.network.notInternet" . | fromJsonArray }}
{{- $old := list }}{{ $new := list }}
{{- range $not }}{{ if contains ":" . }}{{ $new = append $new . }}{{ else }}{{ $old = append $old . }}{{ end }}{{ end }}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except:
          {{- toYaml $old | nindent 10 }}
    - ipBlock:
        cidr: ::/0
        except:
          {{- toYaml $new | nindent 10 }}
{{- end }}

{{/*
The TURN servers that desktops talk to: the release's own coturn by its pods, unless that is on its node's network; all
others by address; empty: none.
*/}}
{{- define "vdi.network.turnPeers" -}}
{{- with .Values.coturn }}
{{- if and .enabled (not .hostNetwork) }}
{{- include "vdi.network.own" (list $ (include "coturn.selectorLabels" $)) }}
{{- end }}
{{- end }}
{{- range .Values.network.turn.addresses }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Their ports: of the release's own coturn as it is set up, else those that are named. */}}
{{- define "vdi.network.turnPorts" -}}
{{- if (.Values.coturn).enabled }}
{{- with .Values.coturn }}
- {port: {{ int .port }}, protocol: UDP}
- {port: {{ int .port }}, protocol: TCP}
{{- if .tls.existingSecret }}
- {port: {{ int .tls.port }}, protocol: TCP}
{{- end }}
- {port: {{ int .relayPorts.min }}, endPort: {{ int .relayPorts.max }}, protocol: UDP}
{{- end }}
{{- else }}
{{- toYaml .Values.network.turn.ports }}
{{- end }}
{{- end }}

{{/* Port of a URL. */}}
{{- define "vdi.network.portOf" -}}
{{- $url := urlParse . }}
{{- $given := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $given | default (ternary "80" "443" (eq $url.scheme "http")) }}
{{- end }}
