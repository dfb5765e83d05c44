{{/* The gateway's container and volumes: in pods of its own, or beside an engine. */}}

{{- define "bitnet.gatewayContainer" -}}
{{- $gateway := dict "top" . "component" "gateway" -}}
name: gateway
image: {{ include "bitnet.image" $gateway }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [bitnet-gateway]
envFrom:
  - configMapRef: {name: {{ include "bitnet.component" $gateway }}}
  {{- with .Values.gateway.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- with .Values.gateway.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: {{ include "bitnet.scheme" . }}-api, containerPort: 8080}
  - {name: http-gateway, containerPort: 9091}
{{- /* Ready means that an engine answers, which may take as long as its model takes to load. */}}
livenessProbe:
  httpGet: {path: /health/live, port: http-gateway}
  initialDelaySeconds: 30
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /health/ready, port: http-gateway}
  initialDelaySeconds: 5
  periodSeconds: 5
  timeoutSeconds: 3
lifecycle:
  preStop: {sleep: {seconds: {{ .Values.termination.preStopSleepSeconds }}}}
resources:
  {{- toYaml .Values.gateway.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- with include "bitnet.gatewayMounts" . | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "bitnet.gatewayMounts" -}}
{{- if .Values.gateway.auth.existingSecret }}
- {name: auth, mountPath: /etc/bitnet/auth, readOnly: true}
{{- end }}
{{- include "bitnet.tlsMounts" (dict "top" . "component" "gateway") }}
{{- end }}

{{- define "bitnet.gatewayVolumes" -}}
{{- with .Values.gateway.auth.existingSecret }}
- name: auth
  secret: {secretName: {{ . }}}
{{- end }}
{{- include "bitnet.tlsVolumes" (dict "top" . "component" "gateway") }}
{{- end }}
