# bitnetd: engine, gateway and tools in one image, which says by its command which of them it is.
#
#   docker build -t bitnetd .
#   docker build -t bitnetd:cuda --target cuda .
#   docker run --read-only --cap-drop ALL -p 8080:8080 bitnetd bitnet-gateway --listen 0.0.0.0:8080 --engine ENGINE:50051
#
# It runs as nobody in particular, writes to no place of the root file system, and needs no shell.
FROM debian:12 AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends make
COPY tools/deps.sh tools/deps.sh
RUN tools/deps.sh demo
COPY . .
# gpu: the engine may load the CUDA library, which only the target cuda has.
ARG FEATURES="cpu gpu prometheus opentelemetry"
ARG GIT_SHA=unknown
RUN make FEATURES="$FEATURES" git_sha="$GIT_SHA" deb

# nvcc alone; the library needs the driver's libcuda only, which the container runtime brings.
FROM nvidia/cuda:12.6.3-devel-ubuntu22.04 AS cuda-build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends make
COPY . .
RUN make FEATURES="cpu gpu prometheus opentelemetry" OUT=/out cuda

FROM debian:12-slim AS runtime
RUN --mount=type=bind,from=build,source=/src/build/bitnetd.deb,target=/tmp/bitnetd.deb \
    apt-get update && apt-get install -y --no-install-recommends /tmp/bitnetd.deb && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
USER 65532:65532
EXPOSE 8080 9090 9091 50051
# Whichever of the two runs: its admin port.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["bitnet", "healthcheck"]
CMD ["bitnet-engine", "--model", "/usr/share/bitnet/tales.gguf"]

FROM runtime AS cuda
COPY --from=cuda-build /out/release-cpu_gpu_opentelemetry_prometheus/libbitnet-cuda.so /usr/lib/bitnet/libbitnet-cuda.so

# The default: without the CUDA library.
FROM runtime
