{{/* Mutual TLS: which secret, which variables. Files of a component's secret are mounted at /etc/bitnet/tls. */}}

{{- define "bitnet.tlsSecret" -}}
{{- if eq .top.Values.tls.mode "certManager" -}}
{{ include "bitnet.component" . }}-tls
{{- else -}}
{{ get .top.Values.tls.existingSecrets .component }}
{{- end -}}
{{- end }}

{{- define "bitnet.tlsVariables.engine" -}}
{{- if eq .Values.tls.mode "none" }}
{{- /* Plain gRPC between pods: the network policy, or the mesh, keeps others out. */}}
BITNET_ALLOW_INSECURE_PUBLIC: "true"
{{- else }}
BITNET_TLS_CERT: /etc/bitnet/tls/tls.crt
BITNET_TLS_KEY: /etc/bitnet/tls/tls.key
BITNET_TLS_CLIENT_CA: /etc/bitnet/tls/ca.crt
{{- end }}
{{- end }}

{{- define "bitnet.tlsVariables.gateway" -}}
{{- if ne .Values.tls.mode "none" }}
BITNET_ENGINE_TLS_CA: /etc/bitnet/tls/ca.crt
BITNET_ENGINE_TLS_CERT: /etc/bitnet/tls/tls.crt
BITNET_ENGINE_TLS_KEY: /etc/bitnet/tls/tls.key
BITNET_ENGINE_TLS_NAME: {{ include "bitnet.component" (dict "top" . "component" "engine") }}
{{- if ne .Values.tls.clients "plain" }}
BITNET_TLS_CERT: /etc/bitnet/tls/tls.crt
BITNET_TLS_KEY: /etc/bitnet/tls/tls.key
{{- end }}
{{- if eq .Values.tls.clients "mutual" }}
BITNET_TLS_CLIENT_CA: /etc/bitnet/tls/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* http or https: what clients of the gateway speak. */}}
{{- define "bitnet.scheme" -}}
{{- ternary "http" "https" (or (eq .Values.tls.mode "none") (eq .Values.tls.clients "plain")) -}}
{{- end }}

{{- define "bitnet.tlsVolumes" -}}
{{- if ne .top.Values.tls.mode "none" }}
- name: {{ .component }}-tls
  secret:
    secretName: {{ include "bitnet.tlsSecret" . }}
{{- end }}
{{- end }}

{{- define "bitnet.tlsMounts" -}}
{{- if ne .top.Values.tls.mode "none" }}
- {name: {{ .component }}-tls, mountPath: /etc/bitnet/tls, readOnly: true}
{{- end }}
{{- end }}
