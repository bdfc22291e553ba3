#!/usr/bin/env bash
# The cluster's tests on kind instead of `cluster up`, with the Dockerfile's image; they install the chart with helm. It
# needs Docker, kind, and what `make cluster` needs, as root.
#
#   tests/e2e/kind.sh          makes a cluster, loads the images, runs the suite (which installs the chart), deletes the cluster
#   KEEP=1 tests/e2e/kind.sh   leaves the cluster for a look
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
name=podmeta
work=$(mktemp -d)
imds=
addresses=(169.254.169.254/32 100.100.100.200/32 fd00:ec2::254/128)
added=()

end() {
  [[ -z $imds ]] || kill "$imds" || true
  for address in "${added[@]}"; do ip address delete "$address" dev lo || true; done
  [[ -n ${KEEP:-} ]] || kind delete cluster --name "$name" || true
  rm -rf "$work"
}
trap end EXIT
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
tests/cluster/packages "$cluster"

# What the nodes reach when podmeta is not in the way: their gateway is this machine, which has the addresses.
for address in "${addresses[@]}"; do
  if ip address add "$address" dev lo 2>/dev/null; then added+=("$address"); fi
done
"$cluster" real-imds &
imds=$!

kind create cluster --config "$here/kind.yaml" --kubeconfig "$work/kubeconfig" --wait 120s
for image in client pause; do
  archive=$("$cluster" archive "$image")
  kind load image-archive "$archive" --name "$name"
done
docker build --tag podmeta.test/podmeta:dev .
kind load docker-image podmeta.test/podmeta:dev --name "$name"

KUBECONFIG=$work/kubeconfig PODMETA_REAL_IMDS=http://127.0.0.1:8980/asked \
  cargo test --locked --workspace --test suite
