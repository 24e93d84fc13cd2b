# Built in two stages; the image holds the binary, CA roots and nothing to log in with.
#
#   docker build -t gatepost .
#   docker run -d --name gatepost --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --tmpfs /run/gatepost:uid=65532,gid=65532,mode=0700 \
#     -v gatepost-state:/var/lib/gatepost -v ./gatepost.toml:/etc/gatepost/gatepost.toml:ro \
#     -p 127.0.0.1:2525:2525 -p 127.0.0.1:8025:8025 gatepost
#
# Sign in with `docker exec -it gatepost gatepost login ACCOUNT`: open the address it prints anywhere, and paste the
# address of the page that the browser ends at (it need not be reached).
#
# In a container the listener must be reachable from the published port: listen on 0.0.0.0 with an
# `allow` list of the container network, or with `auth = "required"` (see docs/configuration.md).
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock askama.toml ./
COPY src src
# `config` and `docs` are compiled in where the program shows them; tests and benches are not built.
COPY config config
COPY docs docs
RUN mkdir -p tests/it tests/interop \
 && touch tests/it/main.rs tests/interop/main.rs tests/tidy.rs \
 && cargo build --release --locked --bin gatepost \
 && install -d -m 0700 -o 65532 -g 65532 /out/state /out/run

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/gatepost /usr/bin/gatepost
COPY --from=build --chown=65532:65532 /out/state /var/lib/gatepost
COPY --from=build --chown=65532:65532 /out/run /run/gatepost
ENV STATE_DIRECTORY=/var/lib/gatepost RUNTIME_DIRECTORY=/run/gatepost
USER 65532:65532
VOLUME ["/var/lib/gatepost"]
EXPOSE 2525 8025
# No shell in the image: the binary checks itself over its control socket.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/gatepost", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/gatepost"]
CMD ["run"]
