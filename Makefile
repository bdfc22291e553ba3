# Development tasks. `make` lists the targets.

CARGO ?= cargo
TOOLS := target/tools
DENY  := $(TOOLS)/bin/cargo-deny
FUZZ  := $(TOOLS)/bin/cargo-fuzz
CLUSTER := target/debug/cluster

# Disables backtraces of errors. Panics still print one.
export RUST_LIB_BACKTRACE := 0

# Programs of the cluster tests. Building them in one command gives dependencies one feature set, so each is built once.
# Tests use `--workspace` for the same reason.
PROGRAMS := --package podmeta-cluster --package podmeta-node-agent --package podmeta-operator

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: dev
dev: ## Serve examples/quickstart.yaml on loopback ports
	$(CARGO) run --quiet --package podmeta-node-agent -- dev -f examples/quickstart.yaml

.PHONY: test
test: quick deny clients cluster-test ## Run all tests, as CI does; sets up what they need

.PHONY: quick
quick: format lint unit ## Check format, lint, run unit and conformance tests; takes minutes

.PHONY: format
format: ## Check code formatting
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## Run clippy with warnings as errors
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) clippy --workspace --test suite --test lifecycle --locked -- --deny warnings

.PHONY: unit
unit: ## Run unit, property, conformance and dev server tests
	$(CARGO) test --workspace --locked

.PHONY: deny
deny: $(DENY) ## Check licenses, sources and bans of dependencies
	$(CARGO) fetch --quiet --locked
	$(DENY) --offline check bans licenses sources

$(DENY):
	$(CARGO) install cargo-deny --version 0.20.2 --locked --root $(TOOLS)

.PHONY: clients
clients: ## Test real SDKs and cloud-init against the dev server; installs them in ~/.cache
	tests/real-clients/run

.PHONY: cluster
cluster: ## Create a Kubernetes cluster of two nodes on this host (root); `make cluster-down` deletes it
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CLUSTER) up
	$(CLUSTER) load-image podmeta

.PHONY: cluster-down
cluster-down: ## Delete the cluster of `make cluster`
	$(CARGO) build --locked --quiet $(PROGRAMS)
	$(CLUSTER) down

.PHONY: cluster-test
cluster-test: ## Run the cluster tests (root); the cluster is kept if a test fails
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CARGO) test --workspace --locked --test lifecycle
	$(MAKE) cluster
	$(CLUSTER) build-programs
	env -u KUBECONFIG -u PODMETA_CLUSTER -u PODMETA_IMDS_STUB $(CARGO) test --workspace --locked --test suite
	$(CLUSTER) down

.PHONY: bench
bench: ## Benchmark the agent against a plain hyper server; 20 minutes on an idle machine
	$(CARGO) build --release --locked --package podmeta-node-agent --package podmeta-benches
	target/release/podmeta-bench
	$(CARGO) bench --locked --package podmeta-benches

.PHONY: fleet
fleet: ## Measure the operator with thousands of pods and hundreds of agents (root); needs an idle host
	$(CARGO) build --release --locked --package podmeta-operator
	$(CARGO) build --locked $(PROGRAMS)
	tests/cluster/install-packages $(CLUSTER)
	$(CARGO) bench --locked --package podmeta-cluster --bench fleet -- $(PODS)

.PHONY: fuzz
fuzz: $(FUZZ) ## Fuzz TARGET (request, path, token, objects, cel or tag) for SECONDS (default: 3600)
	$(CARGO) run --quiet --package podmeta-tests --bin seeds -- fuzz/corpus
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(CARGO) fuzz run --sanitizer none $(TARGET) -- \
		-max_total_time=$(or $(SECONDS),3600) -max_len=8192 -timeout=10

$(FUZZ):
	$(CARGO) install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)

.PHONY: mutations
mutations: ## Run all mutations and report stale ones; takes about an hour
	$(CARGO) run --quiet --package podmeta-tests --bin mutations

.PHONY: conformance-page
conformance-page: ## Regenerate docs/conformance.md
	$(CARGO) run --quiet --package podmeta-tests --bin mutations -- --page

.PHONY: crds
crds: ## Regenerate the CRDs from the Rust types
	$(CARGO) run --quiet --package podmeta-crds --bin crdgen -- charts/podmeta/files/crds
