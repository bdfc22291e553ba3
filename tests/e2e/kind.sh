#!/usr/bin/env bash
# Runs the cluster tests on kind, with the image of the Dockerfile. The tests install the chart with helm.
# Needs root, Docker, kind, and the prerequisites of `make cluster`.
#
#   tests/e2e/kind.sh          creates a cluster, loads the images, runs the tests, deletes the cluster
#   KEEP=1 tests/e2e/kind.sh   keeps the cluster for debugging
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
name=podmeta
work=$(mktemp -d)
imds_stub=
addresses=(169.254.169.254/32 100.100.100.200/32 fd00:ec2::254/128)
added_addresses=()

clean_up() {
  [[ -z $imds_stub ]] || kill "$imds_stub" || true
  for address in "${added_addresses[@]}"; do ip address delete "$address" dev lo || true; done
  [[ -n ${KEEP:-} ]] || kind delete cluster --name "$name" || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

for program in cargo docker ip kind; do
  command -v "$program" >/dev/null || {
    echo "missing: $program" >&2
    exit 1
  }
done

cd "$root"
cargo build --locked --package podmeta-cluster --package podmeta-node-agent
cluster=target/debug/cluster
tests/cluster/install-packages "$cluster"

# The IMDS stub. This host is the gateway of the kind nodes, so it needs the metadata addresses.
for address in "${addresses[@]}"; do
  if ip address add "$address" dev lo 2>/dev/null; then added_addresses+=("$address"); fi
done
"$cluster" imds-stub &
imds_stub=$!

kind create cluster --config "$here/kind.yaml" --kubeconfig "$work/kubeconfig" --wait 120s
for image in client pause; do
  archive=$("$cluster" image-archive "$image")
  kind load image-archive "$archive" --name "$name"
done
docker build --tag podmeta.test/podmeta:dev .
kind load docker-image podmeta.test/podmeta:dev --name "$name"

KUBECONFIG=$work/kubeconfig PODMETA_IMDS_STUB=http://127.0.0.1:8980/requests \
  cargo test --locked --workspace --test suite
