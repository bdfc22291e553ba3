{{- define "podmeta.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* The image is built for Linux only. */ -}}
{{- define "podmeta.nodeSelector" -}}
{{- merge (dict "kubernetes.io/os" "linux") . | toYaml }}
{{- end }}

{{- define "podmeta.labels" -}}
app.kubernetes.io/name: podmeta
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Selector labels of one component. Usage: include "podmeta.selector" (list . "operator") */ -}}
{{- define "podmeta.selector" -}}
app.kubernetes.io/name: podmeta
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* Annotations of an object that exists while the release is uninstalled. Usage: include "podmeta.uninstallHook" WEIGHT */ -}}
{{- define "podmeta.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed,hook-succeeded
{{- end }}
