# Development tasks. `make` lists the targets.

CARGO ?= cargo
TOOLS := target/tools
DENY := $(TOOLS)/bin/cargo-deny
FUZZ := $(TOOLS)/bin/cargo-fuzz
CLUSTER := target/debug/cluster

# Disables backtraces of errors. Panics still print one.
export RUST_LIB_BACKTRACE := 0

# Programs of the cluster tests. Building them in one command gives dependencies one feature set, so each is built once.
# Tests use `--workspace` for the same reason.
PROGRAMS := --package podmeta-cluster --package podmeta-link --package podmeta-node-agent --package podmeta-operator

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Develop

.PHONY: dev
dev: ## Run the dev server with examples/quickstart.yaml on loopback ports
	$(CARGO) run --quiet --package podmeta-node-agent -- dev -f examples/quickstart.yaml

.PHONY: crds
crds: ## Generate the CRDs of the chart from their Rust types
	$(CARGO) run --quiet --package podmeta-crds --bin crdgen -- charts/podmeta/files/crds

.PHONY: conformance-page
conformance-page: ## Generate docs/conformance.md from the conformance cases
	$(CARGO) run --quiet --package podmeta-tests --bin mutations -- --page

##@ Test

.PHONY: quick
quick: format lint unit ## Check format and lints, run the tests that need no root, cluster or SDKs (under 10 minutes)

.PHONY: test
test: quick deny clients link-test cluster-test ## Run all tests, as CI does (root, about an hour)

.PHONY: format
format: ## Check the format of the Rust code
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## Run clippy with warnings as errors
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) clippy --workspace --test suite --test lifecycle --test namespaces --test links --locked -- --deny warnings

.PHONY: unit
unit: ## Run unit, property, conformance and dev server tests
	$(CARGO) test --workspace --locked

.PHONY: deny
deny: $(DENY) ## Check licenses, sources and bans of dependencies, not advisories
	$(CARGO) fetch --quiet --locked
	$(DENY) --offline check bans licenses sources

.PHONY: advisories
advisories: $(DENY) ## Check dependencies for known vulnerabilities; fetches the RustSec database
	$(DENY) --locked check advisories

$(DENY):
	$(CARGO) install cargo-deny --version 0.20.2 --locked --root $(TOOLS)

.PHONY: clients
clients: ## Run real SDKs and tools against the dev server, and the AWS providers against moto; installs them in ~/.cache
	tests/real-clients/run
	tests/moto/run

.PHONY: link-test
link-test: ## Test links, guards, the CNI plugin and the agent on links in network namespaces (root)
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CARGO) test --workspace --locked --test namespaces --test links

.PHONY: link-churn
link-churn: ## Check the identity of a million requests of pods that reuse addresses (root, iproute2)
	PODMETA_CHURN_REQUESTS=1000000 $(CARGO) test --release --locked --package podmeta-node-agent --test links -- \
		--nocapture pods_with_reused_addresses

##@ Test on a cluster (root)

.PHONY: programs
programs: ## Build the programs of the cluster tests. The CNI plugin is static, because it runs on the nodes
	$(CARGO) build --locked $(PROGRAMS)
	$(CARGO) rustc --locked --package podmeta-link --bin podmeta-cni -- -C target-feature=+crt-static

.PHONY: cluster
cluster: programs ## Create a Kubernetes cluster of two nodes on this host
	tests/cluster/install-packages $(CLUSTER)
	$(CLUSTER) up
	$(CLUSTER) load-image podmeta

.PHONY: cluster-down
cluster-down: ## Delete the cluster of `make cluster`
	$(CARGO) build --locked --quiet $(PROGRAMS)
	$(CLUSTER) down

.PHONY: cluster-test
cluster-test: ## Run the cluster tests, and the core tests on each datapath; keeps the cluster if a test fails
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CARGO) test --workspace --locked --test lifecycle
	$(MAKE) cluster
	$(CLUSTER) build-programs
	env -u KUBECONFIG -u PODMETA_CLUSTER -u PODMETA_IMDS_STUB $(CARGO) test --workspace --locked --test suite
	$(CLUSTER) down
	tests/cluster/datapaths core

.PHONY: datapaths
datapaths: programs ## Run every network test on each datapath of the test cluster; reports in target/datapaths
	tests/cluster/install-packages $(CLUSTER)
	$(CLUSTER) build-programs
	tests/cluster/datapaths network

.PHONY: scale-test
scale-test: ## Run the tests of load, faults and churn with 250 pods and 1,000,000 requests on the cluster of `make cluster` (root)
	$(CLUSTER) build-programs
	PODMETA_NEW_PODS=250 PODMETA_CHURN_REQUESTS=1000000 $(CARGO) test --workspace --locked --test suite -- \
		podmeta::churn podmeta::first_requests podmeta::handovers --nocapture --test-threads=1

.PHONY: chaos
chaos: ## Check the identity of every response while parts of the cluster fail for SECONDS (default 600), in the order of SEED (root)
	$(CLUSTER) build-programs
	PODMETA_CHAOS_SECONDS=$(or $(SECONDS),600) PODMETA_CHAOS_SEED=$(or $(SEED),$$(date +%s)) $(CARGO) test --workspace --locked \
		--test suite -- podmeta::chaos --nocapture --test-threads=1

##@ Benchmark, fuzz, mutate

.PHONY: bench
bench: ## Compare the agent with a bare hyper server (about 20 minutes on an idle machine)
	$(CARGO) build --release --locked --package podmeta-node-agent --package podmeta-benches
	target/release/podmeta-bench
	$(CARGO) bench --locked --package podmeta-benches

.PHONY: fleet
fleet: ## Measure the operator with PODS pods and hundreds of agents (root)
	$(CARGO) build --release --locked --package podmeta-operator
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CARGO) bench --locked --package podmeta-cluster --bench fleet -- $(PODS)

.PHONY: link-bench
link-bench: ## Measure the CNI plugin, the link daemon with 1,000 pods, and requests through a link beside a bare hyper server (root, about 7 minutes)
	$(CARGO) bench --locked --package podmeta-link --bench plugin --bench daemon
	$(CARGO) bench --locked --package podmeta-node-agent --bench start --bench link

.PHONY: mutations
mutations: ## Run the recorded mutations and report stale ones; ONLY=TEXT selects by name (about an hour for all)
	$(CARGO) run --quiet --package podmeta-tests --bin mutations -- $(if $(ONLY),--only "$(ONLY)")

.PHONY: fuzz
fuzz: $(FUZZ) ## Fuzz TARGET (request, path, token, objects, cel or tag) for SECONDS (default 3600)
	$(CARGO) run --quiet --package podmeta-tests --bin seeds -- fuzz/corpus
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(CARGO) fuzz run --sanitizer none $(TARGET) -- \
		-max_total_time=$(or $(SECONDS),3600) -max_len=8192 -timeout=10

$(FUZZ):
	$(CARGO) install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)
