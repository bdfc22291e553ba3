# One image with the operator and the node agent: docker build -t podmeta .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package podmeta-operator --package podmeta-node-agent

# glibc and the unwinder, no shell.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/podmeta-operator /src/target/release/podmeta-node-agent /
USER 65532:65532
ENTRYPOINT ["/podmeta-operator"]
