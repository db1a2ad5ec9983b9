{{/* The reference of an image. Given: the root and {repository, tag, digest}. */}}
{{- define "vdi.image" -}}
{{- $repository := (index . 1).repository }}
{{- with (index . 0).Values.global.imageRegistry }}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") }}
{{- end }}
{{- $repository }}{{ with (index . 1).digest }}@{{ . }}{{ else }}:{{ (index . 1).tag | default (index . 0).Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Fails when an image is not set: the chart of a release names its images, a source checkout cannot. */}}
{{- define "vdi.requireImages" -}}
{{- $missing := list }}
{{- if not .Values.image.repository }}{{ $missing = append $missing "image.repository and image.tag (or image.digest)" }}{{ end }}
{{- range $name, $spec := .Values.templates }}
{{- if and $spec (not $spec.image) }}{{ $missing = append $missing (printf "templates.%s.image" $name) }}{{ end }}
{{- end }}
{{- with $missing }}
{{- fail (printf "no image: set %s. The chart of a source checkout has no default image; `make images` builds them and writes build/images/values.yaml (docs/images.md)" (join ", " .)) }}
{{- end }}
{{- end }}

{{- define "vdi.imagePullSecrets" -}}
{{- with concat .Values.imagePullSecrets .Values.global.imagePullSecrets | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a pod runs, and the names that it resolves. Given: the root, the component's values, labels of its replicas. */}}
{{- define "vdi.placement" -}}
{{- $root := index . 0 }}
{{- $own := index . 1 }}
{{- $placement := dict }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "hostAliases" }}
{{- with index $own $key | default (index $root.Values $key) }}{{ $_ := set $placement $key . }}{{ end }}
{{- end }}
{{- if not $placement.affinity }}{{ $_ := set $placement "affinity" (include "vdi.apart" (index . 2) | fromYaml) }}{{ end }}
{{- toYaml $placement }}
{{- end }}

{{/* Variables of a container and those of extraEnv. Given: the chart's own as text, and a list. */}}
{{- define "vdi.env" -}}
{{- $names := list }}
{{- range index . 0 | fromYamlArray }}{{ $names = append $names .name }}{{ end }}
{{- range index . 1 }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is already set by the chart; allowed: other names. docs/values.md names the value that sets it" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- index . 0 }}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a pod beside the chart's own, which selectors and network policies need. */}}
{{- define "vdi.podLabels" -}}
{{- range $name, $_ := . }}
{{- if regexMatch "^(app\\.kubernetes\\.io/|helm\\.sh/|control-plane$)" $name }}
{{- fail (printf "podLabels: %s is a label of the chart; allowed: other names" $name) }}
{{- end }}
{{- end }}
{{- with . }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Of operator and gateway; the argument names the port of /healthz and /readyz. */}}
{{- define "vdi.probes" -}}
startupProbe: # a slow or busy node needs minutes, and would need them again after a restart
  httpGet: &alive
    path: /healthz
    port: {{ . }}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 300
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 3
livenessProbe:
  httpGet: *alive
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
