{{/* The engine's container and volumes. */}}

{{- define "bitnet.engineContainer" -}}
{{- $engine := dict "top" . "component" "engine" -}}
name: engine
image: {{ include "bitnet.image" $engine }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [bitnet-engine]
envFrom:
  - configMapRef: {name: {{ include "bitnet.component" $engine }}}
  {{- with .Values.engine.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- with .Values.engine.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: grpc-engine, containerPort: 50051}
  - {name: http-engine, containerPort: 9090}
{{- /* kubelet's gRPC probe speaks no TLS; the admin port says the same. */}}
startupProbe:
  {{- include "bitnet.engineServes" . | nindent 2 }}
  initialDelaySeconds: 10
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ .Values.engine.startupFailureThreshold }}
livenessProbe:
  httpGet: {path: /health/live, port: http-engine}
  initialDelaySeconds: 30
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  {{- include "bitnet.engineServes" . | nindent 2 }}
  initialDelaySeconds: 5
  periodSeconds: 5
  timeoutSeconds: 3
lifecycle:
  preStop: {sleep: {seconds: {{ .Values.termination.preStopSleepSeconds }}}}
resources:
  {{- $resources := deepCopy .Values.engine.resources }}
  {{- if .Values.engine.gpu.enabled }}
  {{- $resources = mergeOverwrite $resources (dict "limits" (dict .Values.engine.gpu.resource .Values.engine.gpu.count)) }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- with include "bitnet.engineMounts" . | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "bitnet.engineMounts" -}}
{{- if ne .Values.model.source "bundled" }}
- name: model
  mountPath: /models
  readOnly: true
  {{- if and (eq .Values.model.source "pvc") .Values.model.pvc.subPath }}
  subPath: {{ .Values.model.pvc.subPath | quote }}
  {{- end }}
{{- end }}
{{- if .Values.engine.state.enabled }}
- {name: state, mountPath: /var/lib/bitnet}
{{- end }}
{{- include "bitnet.tlsMounts" (dict "top" . "component" "engine") }}
{{- end }}

{{- define "bitnet.engineServes" -}}
{{- if eq .Values.tls.mode "none" -}}
grpc: {port: 50051}
{{- else -}}
httpGet: {path: /health/ready, port: http-engine}
{{- end -}}
{{- end }}

{{- define "bitnet.modelFile" -}}
{{- if eq .Values.model.source "bundled" }}{{ .Values.model.file }}{{ else }}{{ printf "/models/%s" (trimPrefix "/" .Values.model.file) }}{{ end -}}
{{- end }}

{{- define "bitnet.engineVolumes" -}}
{{- with .Values.model }}
{{- if eq .source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ .pvc.claimName }}, readOnly: true}
{{- else if eq .source "image" }}
- name: model
  image: {reference: {{ .image.reference | quote }}, pullPolicy: {{ .image.pullPolicy }}}
{{- else if eq .source "hostPath" }}
- name: model
  hostPath: {path: {{ .hostPath.path | quote }}, type: Directory}
{{- end }}
{{- end }}
{{- include "bitnet.tlsVolumes" (dict "top" . "component" "engine") }}
{{- end }}
