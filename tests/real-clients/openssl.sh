#!/usr/bin/env bash
# The signatures of the identity documents, verified as the two clouds tell their users to: curl, then openssl with the
# published certificate, here the one of PODMETA_IDENTITY_CERTIFICATE. Runs in a folder that it may write to.
set -euo pipefail

ec2=http://169.254.169.254/latest
ecs=http://100.100.100.200/latest
certificate=$PODMETA_IDENTITY_CERTIFICATE
identity=dynamic/instance-identity

# check NAME COMMAND...: one line, as every client here prints it.
check() {
  local name=$1 why status
  shift
  set +e
  why=$(
    set -e
    "$@" 2>&1
  )
  status=$?
  set -e
  if ((status == 0)); then
    printf 'ok %s\n' "$name"
  else
    printf 'FAIL %s: %s\n' "$name" "$(tr '\n' ' ' <<<"$why")"
  fi
}

refuses() {
  if "$@" >/dev/null 2>&1; then
    echo "was accepted: $*"
    return 1
  fi
}

# fetch CLOUD PATH FILE, with a token of its own.
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

# armour LABEL FILE: between BEGIN and END lines, as the recipes make it.
armour() {
  { echo "-----BEGIN $1-----" && cat "$2" && echo && echo "-----END $1-----"; } >"$2.pem"
}

# verify ITEM DOCUMENT: the signature holds over the document, and the content inside is its exact bytes.
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
  refuses openssl dgst -sha256 -verify key.pem -signature signature.bin changed.document
}

ec2_item() {
  fetch ec2 "$identity/$1" "$1"
  armour PKCS7 "$1"
  verify "$1" ec2.document
  refuses openssl smime -verify -in "$1.pem" -inform PEM -content changed.document -certfile "$certificate" -noverify
  refuses openssl smime -verify -in "$1.pem" -inform PEM -content ec2.document -certfile other.pem -noverify
}

# ecs_item QUERY DOCUMENT
ecs_item() {
  fetch ecs "$identity/pkcs7$1" ecs-pkcs7
  armour CERTIFICATE ecs-pkcs7
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
