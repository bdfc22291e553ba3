#!/usr/bin/env bash
# Verifies the signatures of the identity documents with curl and openssl, as documented by both clouds. The certificate is
# PODMETA_IDENTITY_CERTIFICATE. Writes files to the current directory.
set -euo pipefail

ec2=http://169.254.169.254/latest
ecs=http://100.100.100.200/latest
certificate=$PODMETA_IDENTITY_CERTIFICATE
identity=dynamic/instance-identity

# check NAME COMMAND...: runs COMMAND and prints one result line.
check() {
  local name=$1 reason status
  shift
  set +e
  reason=$(
    set -e
    "$@" 2>&1
  )
  status=$?
  set -e
  if ((status == 0)); then
    printf 'ok %s\n' "$name"
  else
    printf 'FAIL %s: %s\n' "$name" "$(tr '\n' ' ' <<<"$reason")"
  fi
}

must_fail() {
  if "$@" >/dev/null 2>&1; then
    echo "succeeded, but must fail: $*"
    return 1
  fi
}

# fetch CLOUD PATH FILE: requests a token, then PATH.
fetch() {
  local token
  if [[ $1 == ec2 ]]; then
    token=$(curl -sSf --max-time 5 -X PUT "$ec2/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')
    curl -sSf --max-time 5 "$ec2/$2" -H "X-aws-ec2-metadata-token: $token" -o "$3"
  else
    token=$(curl -sSf --max-time 5 -X PUT "$ecs/api/token" -H 'X-aliyun-ecs-metadata-token-ttl-seconds: 60')
    curl -sSf --max-time 5 "$ecs/$2" -H "X-aliyun-ecs-metadata-token: $token" -o "$3"
  fi
}

# armor LABEL FILE: adds BEGIN and END lines, as in the clouds' instructions.
armor() {
  { echo "-----BEGIN $1-----" && cat "$2" && echo && echo "-----END $1-----"; } >"$2.pem"
}

# verify ITEM DOCUMENT: verifies the signature of DOCUMENT and that the signed content equals DOCUMENT.
verify() {
  openssl smime -verify -in "$1.pem" -inform PEM -content "$2" -certfile "$certificate" -noverify >/dev/null
  openssl smime -verify -in "$1.pem" -inform PEM -certfile "$certificate" -noverify >"$1.content"
  cmp "$1.content" "$2"
}

ec2_signature() {
  fetch ec2 "$identity/signature" signature
  base64 -d signature >signature.bin
  openssl x509 -pubkey -noout -in "$certificate" >key.pem
  openssl dgst -sha256 -verify key.pem -signature signature.bin ec2.document
  must_fail openssl dgst -sha256 -verify key.pem -signature signature.bin changed.document
}

ec2_item() {
  fetch ec2 "$identity/$1" "$1"
  armor PKCS7 "$1"
  verify "$1" ec2.document
  must_fail openssl smime -verify -in "$1.pem" -inform PEM -content changed.document -certfile "$certificate" -noverify
  must_fail openssl smime -verify -in "$1.pem" -inform PEM -content ec2.document -certfile other.pem -noverify
}

# ecs_item QUERY DOCUMENT
ecs_item() {
  fetch ecs "$identity/pkcs7$1" ecs-pkcs7
  armor CERTIFICATE ecs-pkcs7
  verify ecs-pkcs7 "$2"
}

with_audience() {
  head -c -1 ecs.document
  printf ',"audience":"%s"}' "$1"
}

fetch ec2 "$identity/document" ec2.document
fetch ecs "$identity/document" ecs.document
sed 's/"region"/"Region"/' ec2.document >changed.document
with_audience https://example.com >audience.document
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -keyout other.key -out other.pem 2>/dev/null

check "EC2 signature" ec2_signature
check "EC2 rsa2048" ec2_item rsa2048
check "EC2 pkcs7" ec2_item pkcs7
check "ECS pkcs7" ecs_item "" ecs.document
check "ECS pkcs7 with an audience" ecs_item "?audience=https%3A%2F%2Fexample.com" audience.document
