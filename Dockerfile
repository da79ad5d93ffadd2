# One image for all parts: API, workers (CPU or GPU) and scheduler. The default build of PyTorch
# runs on both, so the image is large (CUDA libraries) and the same everywhere.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/labelclimb
# The dependencies first, with empty packages: a change of our code does not fetch them again.
COPY constraints/labelclimb.txt constraints/labelclimb.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
RUN mkdir backend models strategies && touch backend/__init__.py models/__init__.py \
        strategies/__init__.py \
    && /opt/labelclimb/bin/pip install -c constraints/labelclimb.txt '.[postgresql,s3]'
COPY backend backend
COPY models models
COPY strategies strategies
RUN /opt/labelclimb/bin/pip install --no-deps --force-reinstall .

FROM python:3.11.13-slim-bookworm
# On a GPU, PyTorch compiles at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --create-home labelclimb \
    && install -d -o labelclimb -g labelclimb /data
COPY --from=build /opt/labelclimb /opt/labelclimb
ENV PATH=/opt/labelclimb/bin:$PATH DATA_DIR=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER labelclimb
WORKDIR /data
VOLUME /data
EXPOSE 9090
ENTRYPOINT ["labelclimb"]
CMD ["serve"]
