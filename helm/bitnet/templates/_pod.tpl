{{/* A pod of a component: (dict "top" $ "component" "engine" "containers" (list NAME...)). */}}

{{- define "bitnet.pod" -}}
{{- $top := .top -}}
{{- $part := get .top.Values .component -}}
metadata:
  labels:
    {{- include "bitnet.labels" . | nindent 4 }}
    {{- if eq .top.Values.mesh "istio" }}
    sidecar.istio.io/inject: "true"
    {{- end }}
    {{- with $part.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- range .containers }}
    checksum/{{ . }}: {{ include (print $top.Template.BasePath "/" . "-configmap.yaml") $top | sha256sum }}
    {{- end }}
    {{- if eq .top.Values.mesh "istio" }}
    proxy.istio.io/config: '{"holdApplicationUntilProxyStarts": true}'
    {{- else if eq .top.Values.mesh "linkerd" }}
    linkerd.io/inject: enabled
    config.linkerd.io/proxy-await: enabled
    {{- end }}
    {{- with $part.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "bitnet.serviceAccount" .top }}
  automountServiceAccountToken: false
  {{- /* The variables of a Service named like an option would be taken for it. */}}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .top.Values.termination.gracePeriodSeconds }}
  {{- with .top.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .top.Values.podSecurityContext | nindent 4 }}
  {{- include "bitnet.scheduling" (dict "top" .top "component" .component "part" $part) | nindent 2 }}
  containers:
    {{- range .containers }}
    - {{ include (printf "bitnet.%sContainer" .) $top | nindent 6 | trim }}
    {{- end }}
  {{- $volumes := "" }}
  {{- range .containers }}
  {{- $volumes = printf "%s\n%s" $volumes (include (printf "bitnet.%sVolumes" .) $top | trim) }}
  {{- end }}
  {{- with trim $volumes }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "bitnet.scheduling" -}}
{{- $gpu := and (eq .component "engine") .top.Values.engine.gpu.enabled -}}
{{- $selector := deepCopy .part.nodeSelector -}}
{{- if $gpu }}{{ $selector = mergeOverwrite $selector .top.Values.engine.gpu.nodeSelector }}{{ end -}}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $gpu .part.tolerations }}
tolerations:
  {{- if $gpu }}
  - {key: {{ .top.Values.engine.gpu.resource }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .part.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if and $gpu .top.Values.engine.gpu.runtimeClassName }}
runtimeClassName: {{ .top.Values.engine.gpu.runtimeClassName }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .part.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "bitnet.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
