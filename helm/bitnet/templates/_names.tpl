{{/* Names, labels and the image. A component is "engine" or "gateway"; functions that need one take (dict "top" $ "component" "engine"). */}}

{{- define "bitnet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "bitnet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "bitnet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bitnet.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "bitnet.component" -}}
{{- printf "%s-%s" (include "bitnet.fullname" .top) .component -}}
{{- end }}

{{/* The component's label is Prometheus' job too, which alerts and dashboard name. */}}
{{- define "bitnet.selector" -}}
app.kubernetes.io/name: {{ include "bitnet.name" .top }}
app.kubernetes.io/instance: {{ .top.Release.Name }}
app.kubernetes.io/component: bitnet-{{ .component }}
{{- end }}

{{- define "bitnet.labels" -}}
{{ include "bitnet.selector" . }}
app.kubernetes.io/version: {{ .top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .top.Release.Service }}
helm.sh/chart: {{ .top.Chart.Name }}-{{ .top.Chart.Version }}
{{- with .top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bitnet.metadata" -}}
name: {{ include "bitnet.component" . }}
namespace: {{ .top.Release.Namespace }}
labels:
  {{- include "bitnet.labels" . | nindent 2 }}
{{- end }}

{{/* Where the gateway's container runs: the component whose pods have it. */}}
{{- define "bitnet.gatewayPods" -}}
{{- ternary "engine" "gateway" (eq .Values.gateway.placement "sidecar") -}}
{{- end }}

{{- define "bitnet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bitnet.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "bitnet.image" -}}
{{- $suffix := and (eq .component "engine") .top.Values.engine.gpu.enabled | ternary .top.Values.engine.gpu.tagSuffix "" -}}
{{- with .top.Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.top.Chart.AppVersion .tag }}{{ $suffix }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Numbers of a values file are floating-point: 1000000 would become 1e+06. */}}
{{- define "bitnet.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end }}

{{/* Options by name as environment variables: queue-limit becomes BITNET_QUEUE_LIMIT. */}}
{{- define "bitnet.variables" -}}
{{- range $name, $value := . }}
BITNET_{{ $name | upper | replace "-" "_" }}: {{ include "bitnet.text" $value | quote }}
{{- end }}
{{- end }}

{{/* What contradicts itself is told before anything is made. */}}
{{- define "bitnet.check" -}}
{{- $v := .Values -}}
{{- $missing := "" -}}
{{- if and (eq $v.model.source "pvc") (not $v.model.pvc.claimName) }}{{ $missing = "model.pvc.claimName with model.source pvc" }}{{ end -}}
{{- if and (eq $v.model.source "image") (not $v.model.image.reference) }}{{ $missing = "model.image.reference with model.source image" }}{{ end -}}
{{- if and (eq $v.model.source "hostPath") (not $v.model.hostPath.path) }}{{ $missing = "model.hostPath.path with model.source hostPath" }}{{ end -}}
{{- if and (eq $v.tls.mode "existingSecrets") (not (and $v.tls.existingSecrets.engine $v.tls.existingSecrets.gateway)) }}{{ $missing = "tls.existingSecrets.engine and .gateway with tls.mode existingSecrets" }}{{ end -}}
{{- if and (eq $v.engine.autoscaling.mode "keda") $v.engine.autoscaling.queueDepth (not $v.keda.prometheusAddress) }}{{ $missing = "keda.prometheusAddress with engine.autoscaling.mode keda and a queueDepth" }}{{ end -}}
{{- if and $v.inferencePool.enabled (not $v.inferencePool.endpointPicker.name) }}{{ $missing = "inferencePool.endpointPicker.name with inferencePool.enabled" }}{{ end -}}
{{- if $missing }}{{ fail (printf "expected %s, found none" $missing) }}{{ end -}}
{{- if and $v.engine.state.enabled (ne $v.engine.kind "StatefulSet") -}}
{{- fail (printf "engine.state.enabled: expected engine.kind StatefulSet, found %s" $v.engine.kind) -}}
{{- end -}}
{{- if and $v.inferencePool.enabled (ne $v.gateway.placement "sidecar") -}}
{{- fail (printf "inferencePool.enabled: expected gateway.placement sidecar, found %s" $v.gateway.placement) -}}
{{- end -}}
{{- if and (ne $v.tls.mode "none") (ne $v.tls.clients "plain") (or $v.ingress.enabled $v.httpRoute.enabled $v.inferencePool.enabled) -}}
{{- fail (printf "ingress, httpRoute and inferencePool speak plain HTTP to the gateway: expected tls.clients plain, found %s" $v.tls.clients) -}}
{{- end -}}
{{- if and (ne $v.tls.mode "none") $v.grpcRoute.enabled -}}
{{- fail (printf "grpcRoute speaks plain gRPC to the engines: expected tls.mode none, found %s" $v.tls.mode) -}}
{{- end -}}
{{- end }}
