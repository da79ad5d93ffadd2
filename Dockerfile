# One image for all parts: API, workers (CPU or GPU) and scheduler. The default build of PyTorch
# runs on both, so the image is large (CUDA libraries) and the same everywhere.

FROM python:3.11.13-slim-bookworm AS requirements
COPY setup.cfg setup.cfg
RUN python -c "from configparser import ConfigParser; c = ConfigParser(); c.read('setup.cfg'); \
extras = c['options.extras_require']; \
print(c['options']['install_requires'], extras['postgresql'], extras['s3'])" > requirements.txt

# In a layer of their own, which only other requirements or pins replace: a new release of ours adds
# few megabytes to it.
FROM python:3.11.13-slim-bookworm AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/labelclimb
COPY constraints/labelclimb.txt constraints.txt
COPY --from=requirements requirements.txt requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/labelclimb/bin/pip install -c constraints.txt -r requirements.txt

FROM dependencies AS build
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY backend backend
COPY models models
COPY strategies strategies
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/labelclimb/bin/pip wheel --no-deps --wheel-dir wheels .

FROM python:3.11.13-slim-bookworm
# On a GPU, PyTorch compiles at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --create-home labelclimb \
    && install -d -o labelclimb -g labelclimb /data
COPY --from=dependencies /opt/labelclimb /opt/labelclimb
RUN --mount=from=build,source=/build/wheels,target=/wheels \
    /opt/labelclimb/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
# What is downloaded for ENCODER_WEIGHTS=hub is kept in the volume, once for all containers.
ENV PATH=/opt/labelclimb/bin:$PATH DATA_DIR=/data HF_HOME=/data/huggingface \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER labelclimb
WORKDIR /data
VOLUME /data
EXPOSE 9090
ENTRYPOINT ["labelclimb"]
CMD ["serve"]
