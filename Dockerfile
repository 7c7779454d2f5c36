# For a CPU:
#   docker build -t stemlab .
# For NVIDIA GPUs:
#   docker build -t stemlab --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --gpus all -v "$PWD:/work" -v stemlab:/data stemlab separate song.mp3
# No test builds or runs it.
ARG BASE=debian:trixie-slim
FROM ${BASE}
# Of the two builds of torch that both indexes offer, pip takes that of this index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates ffmpeg git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/stemlab
ENV PATH=/opt/stemlab/bin:$PATH

COPY . /src
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
        --constraint /src/.ci/constraints.txt '/src[app]' \
    && rm -rf /src

# Models, the cache of decoded files and the demo corpus are kept in a volume at /data.
ENV STEMLAB_MODELS=/data/models STEMLAB_CACHE=/data/cache HF_HOME=/data/huggingface
WORKDIR /work
ENTRYPOINT ["stemlab"]
