# What a developer can do here. `make` lists it.

CARGO ?= cargo
TOOLS := target/tools
DENY  := $(TOOLS)/bin/cargo-deny
FUZZ  := $(TOOLS)/bin/cargo-fuzz
CLUSTER := target/debug/cluster

# An error says what it is about. Where in the code it was made is sixty lines that hide it; a panic still tells.
export RUST_LIB_BACKTRACE := 0

# What is built together has the same features of dependencies, so it is built once: the programs here, tests with
# `--workspace` below.
PROGRAMS := --package podmeta-cluster --package podmeta-node-agent --package podmeta-operator

.PHONY: help
help: ## List what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: dev
dev: ## Serve examples/quickstart.yaml on loopback ports
	$(CARGO) run --quiet --package podmeta-node-agent -- dev -f examples/quickstart.yaml

.PHONY: test
test: quick deny clients cluster-test ## Set up and pass every test: what CI runs

.PHONY: quick
quick: format lint unit ## Format, lint, unit and conformance tests: minutes, no network once built

.PHONY: format
format: ## Check the format of the code
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## Clippy, with warnings as errors
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) clippy --workspace --test suite --test lifecycle --locked -- --deny warnings

.PHONY: unit
unit: ## Unit, property, conformance and dev server tests
	$(CARGO) test --workspace --locked

.PHONY: deny
deny: $(DENY) ## Licences, sources and bans of dependencies
	$(CARGO) fetch --quiet --locked
	$(DENY) --offline check bans licenses sources

$(DENY):
	$(CARGO) install cargo-deny --version 0.20.2 --locked --root $(TOOLS)

.PHONY: clients
clients: ## Real SDKs and cloud-init against the dev server; installs them outside the workspace
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
bench: ## Measure the agent beside a bare hyper server: 20 minutes on an idle machine
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
fuzz: $(FUZZ) ## Fuzz TARGET (request, path, token, objects, cel or tag) for SECONDS, an hour unless you say otherwise
	$(CARGO) run --quiet --package podmeta-tests --bin seeds -- fuzz/corpus
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(CARGO) fuzz run --sanitizer none $(TARGET) -- \
		-max_total_time=$(or $(SECONDS),3600) -max_len=8192 -timeout=10

$(FUZZ):
	$(CARGO) install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)

.PHONY: mutations
mutations: ## Run every mutation of tests/mutations, report stale ones: about an hour
	$(CARGO) run --quiet --package podmeta-tests --bin mutations

.PHONY: conformance-page
conformance-page: ## Write docs/conformance.md from the cases and the record of mutations
	$(CARGO) run --quiet --package podmeta-tests --bin mutations -- --page

.PHONY: crds
crds: ## Write the CRDs again after their types changed
	$(CARGO) run --quiet --package podmeta-crds --bin crdgen -- charts/podmeta/files/crds
