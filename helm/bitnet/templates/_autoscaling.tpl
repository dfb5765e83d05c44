{{/* What an autoscaler of a component scales; nothing where the gateway has no pods of its own. */}}
{{- define "bitnet.scaled" -}}
{{- $mode := (get .top.Values .component).autoscaling.mode -}}
{{- if and (eq $mode .mode) (or (eq .component "engine") (eq .top.Values.gateway.placement "separate")) -}}true{{- end -}}
{{- end }}

{{- define "bitnet.scaleTarget" -}}
apiVersion: apps/v1
kind: {{ eq .component "engine" | ternary .top.Values.engine.kind "Deployment" }}
name: {{ include "bitnet.component" . }}
{{- end }}
