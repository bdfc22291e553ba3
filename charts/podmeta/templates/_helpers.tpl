{{- define "podmeta.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* The image is built for Linux only. */ -}}
{{- define "podmeta.nodeSelector" -}}
{{- merge (dict "kubernetes.io/os" "linux") . | toYaml }}
{{- end }}

{{- /* All pods of the chart tolerate the startup taint: nodes lose it only when these pods run. */ -}}
{{- define "podmeta.tolerations" -}}
{{- append (default list .) (dict "key" "podmeta.dev/not-ready" "operator" "Exists") | toYaml }}
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

{{- /*
The service addresses, and the addresses that stand for them on the link of a node, as a list in CEL. Source of the latter:
link/src/host_pods/addresses.rs.
*/ -}}
{{- define "podmeta.serviceAddresses" -}}
[ip('169.254.169.254'), ip('100.100.100.200'), ip('fd00:ec2::254'),
 ip('169.254.239.2'), ip('169.254.239.4'), ip('fda9:fe:a9fe::a9fe:ef03')]
{{- end }}

{{- /*
Regular expression, in CEL, of a text that programs can read as an IP address although isIP() is false: it contains a colon, or
its last label is a number. "2852039166", "0xa9.254.169.254", "100.100.100.0200" and "::ffff:100.100.100.200" are such texts.
The last label of a DNS name is never a number.
*/ -}}
{{- define "podmeta.unusualAddress" -}}
r':|(^|[.])([0-9]+|0[xX][0-9a-fA-F]*)$'
{{- end }}

{{- /* Binding of a ValidatingAdmissionPolicy with the same name. Usage: include "podmeta.admissionBinding" (list . NAME) */ -}}
{{- define "podmeta.admissionBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 1 }}
  labels: {{- include "podmeta.labels" (index . 0) | nindent 4 }}
spec:
  policyName: {{ index . 1 }}
  validationActions: [Deny]
{{- end }}
