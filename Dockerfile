# Image of the operator, the node agent, the link daemon and the CNI plugin. Build: docker build -t podmeta .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package podmeta-operator --package podmeta-node-agent --package podmeta-link
# The plugin runs on the node, so it is static.
RUN cargo rustc --release --locked --package podmeta-link --bin podmeta-cni -- -C target-feature=+crt-static

# Contains glibc and libgcc, and no shell.
FROM gcr.io/distroless/cc-debian12
LABEL org.opencontainers.image.title="podmeta" \
      org.opencontainers.image.description="Operator and node agent that give every pod its own instance metadata" \
      org.opencontainers.image.source="https://github.com/podmeta/podmeta" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/podmeta-operator /src/target/release/podmeta-node-agent \
     /src/target/release/podmeta-link /src/target/release/podmeta-cni /
USER 65532:65532
ENTRYPOINT ["/podmeta-operator"]
