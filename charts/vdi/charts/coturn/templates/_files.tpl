{{- define "coturn.files" -}}
start.sh: |
  set -eu
  umask 077
  config=/run/coturn/turnserver.conf
  cat /etc/coturn/turnserver.conf >"$config"
  for file in /etc/coturn-auth/secret /etc/coturn-auth/previousSecret; do
    if [ "$file" = /etc/coturn-auth/previousSecret ] && [ ! -e "$file" ]; then
      continue
    fi
    secret=$(cat "$file")
    case "$secret" in
      *[!A-Za-z0-9+/=_.~-]*)
        echo "$file holds a character other than A-Z a-z 0-9 + / = _ . ~ -" >&2
        exit 1
        ;;
    esac
    if [ "${#secret}" -lt 32 ]; then
      echo "$file has ${#secret} characters; it takes at least 32" >&2
      exit 1
    fi
    echo "static-auth-secret=$secret" >>"$config"
  done
  exec turnserver -c "$config"
turnserver.conf: |
  realm={{ .Values.realm }}
  listening-port={{ int .Values.port }}
  min-port={{ int .Values.relayPorts.min }}
  max-port={{ int .Values.relayPorts.max }}
  {{- with .Values.externalIP }}
  external-ip={{ . }}
  {{- end }}
  # Credentials are made from the secret, hold until the time in their user name, and come with every request.
  use-auth-secret
  stale-nonce=600
  fingerprint
  # Peers: the pods, over UDP. All else is denied rather than listed, since a list forgets; an allowed range wins.
  {{- range .Values.allowedPeers }}
  allowed-peer-ip={{ include "coturn.range" . }}
  {{- end }}
  denied-peer-ip=0.0.0.0-255.255.255.255
  denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
  no-multicast-peers
  no-tcp-relay
  user-quota={{ int .Values.quotas.perUser }}
  total-quota={{ int .Values.quotas.total }}
  max-bps={{ int .Values.quotas.bytesPerSecond }}
  {{- if .Values.tls.existingSecret }}
  tls-listening-port={{ int .Values.tls.port }}
  cert=/etc/coturn-tls/tls.crt
  pkey=/etc/coturn-tls/tls.key
  {{- else }}
  no-tls
  {{- end }}
  {{- if .Values.metrics.enabled }}
  prometheus
  prometheus-port={{ int .Values.metrics.port }}
  {{- with .Values.metrics.address }}
  prometheus-address={{ . }}
  {{- end }}
  {{- end }}
  # Nothing to ask it from outside, and no second port that answers with more than it was asked.
  no-cli
  no-rfc5780
  log-file=stdout
  simple-log
  pidfile=/run/coturn/turnserver.pid
  userdb=/run/coturn/turndb
{{- end }}
