# Image of the operator and the node agent. Build: docker build -t podmeta .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package podmeta-operator --package podmeta-node-agent

# Contains glibc and libgcc, and no shell.
FROM gcr.io/distroless/cc-debian12
LABEL org.opencontainers.image.title="podmeta" \
      org.opencontainers.image.description="Operator and node agent that give every pod its own instance metadata" \
      org.opencontainers.image.source="https://github.com/podmeta/podmeta" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/podmeta-operator /src/target/release/podmeta-node-agent /
USER 65532:65532
ENTRYPOINT ["/podmeta-operator"]
