# docker build --tag avfuse .                       PyTorch with CUDA
# docker build --build-arg TORCH=cpu --tag avfuse . PyTorch without
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/avfuse
ARG TORCH=default
ENV PIP_NO_CACHE_DIR=1 NUMBA_CACHE_DIR=/tmp/numba
COPY . .
RUN make install install-cluster TORCH="$TORCH"

ENV PATH=/opt/avfuse/.venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["avfuse"]
CMD ["--help"]
