{{/* The command that puts gpu.timeSlicing into effect: with the same numbers, or it would write its own. */}}
{{- define "vdi.gpuConfigure" -}}
{{- $words := list "vdi gpu configure" (printf "--replicas %d" (int .configs.any)) }}
{{- range $name, $replicas := omit .configs "any" }}
{{- $words = append $words (printf "--config %s=%d" $name (int $replicas)) }}
{{- end }}
{{- if ne .migStrategy "none" }}{{ $words = append $words (printf "--mig-strategy %s" .migStrategy) }}{{ end }}
{{- if .renameByDefault }}{{ $words = append $words "--rename-by-default" }}{{ end }}
{{- if .failRequestsGreaterThanOne }}{{ $words = append $words "--fail-requests-greater-than-one" }}{{ end }}
{{- join " " $words }}
{{- end }}
