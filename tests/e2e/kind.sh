#!/usr/bin/env bash
# Runs the cluster tests on kind, with the image of the Dockerfile. The tests install the chart with helm.
# Needs root, Docker, kind, and the prerequisites of `make cluster`.
#
#   tests/e2e/kind.sh              creates a cluster, loads the images, runs the tests, deletes the cluster
#   CNI=calico tests/e2e/kind.sh   with another network plugin: kindnet (default), calico or cilium (eBPF host routing)
#   KEEP=1 tests/e2e/kind.sh       keeps the cluster for debugging
#
# Arguments select tests of the suite. CALICO_VERSION and CILIUM_VERSION select the versions of the charts.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
name=podmeta
cni=${CNI:-kindnet}
work=$(mktemp -d)
kubeconfig=$work/kubeconfig
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

# What kind does not install if another plugin replaces it.
case $cni in
  kindnet) replaced='' ;;
  calico) replaced=', disableDefaultCNI: true' ;;
  cilium) replaced=', disableDefaultCNI: true, kubeProxyMode: none' ;;
  *)
    echo "CNI=$cni: use kindnet, calico or cilium" >&2
    exit 2
    ;;
esac

# install_calico: one address pool for each of kind's ranges.
install_calico() {
  helm --kubeconfig "$kubeconfig" install calico tigera-operator --repo https://docs.tigera.io/calico/charts \
    --version "${CALICO_VERSION:-v3.30.3}" --namespace tigera-operator --create-namespace --wait --values - <<END
installation:
  calicoNetwork:
    ipPools:
    - {cidr: 10.244.0.0/16, encapsulation: VXLAN, natOutgoing: Enabled}
    - {cidr: "fd00:10:244::/56", encapsulation: None, natOutgoing: Enabled}
END
}

# install_cilium: with the settings for which Cilium bypasses the node's network stack. podmeta needs cni.exclusive=false.
install_cilium() {
  helm --kubeconfig "$kubeconfig" install cilium cilium --repo https://helm.cilium.io \
    --version "${CILIUM_VERSION:-1.18.2}" --namespace kube-system --wait --values - <<END
cni: {exclusive: false}
ipam: {mode: kubernetes}
ipv6: {enabled: true}
kubeProxyReplacement: true
k8sServiceHost: $name-control-plane
k8sServicePort: 6443
bpf: {masquerade: true}
operator: {replicas: 1}
END
}

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

sed "s/ipFamily: dual/&$replaced/" "$here/kind.yaml" >"$work/kind.yaml"
if [[ $cni == kindnet ]]; then wait=120s; else wait=0s; fi # without a network plugin, no node is ready
kind create cluster --config "$work/kind.yaml" --kubeconfig "$kubeconfig" --wait "$wait"
if [[ $cni != kindnet ]]; then
  programs=$("$cluster" build-programs)
  eval "$(grep '^export PATH=' <<<"$programs")" # kubectl and helm
  "install_$cni"
  kubectl --kubeconfig "$kubeconfig" wait --for=condition=Ready nodes --all --timeout=300s
fi
for image in client pause; do
  archive=$("$cluster" image-archive "$image")
  kind load image-archive "$archive" --name "$name"
done
docker build --tag podmeta.test/podmeta:dev .
kind load docker-image podmeta.test/podmeta:dev --name "$name"

# Packets of pods bypass the node's network stack: the suite does not expect the first two guards to drop them.
if [[ $cni == cilium ]]; then export PODMETA_DATAPATH=bypass; fi
KUBECONFIG=$kubeconfig PODMETA_IMDS_STUB=http://127.0.0.1:8980/requests \
  cargo test --locked --workspace --test suite -- "$@"
