# The image of MedAI Flow. Build: docker build -t medai-flow:0.1.0 .
# What is installed is pinned by hash in requirements/demo.txt. Pin the base image by digest in your
# own registry: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/medai
COPY requirements/demo.txt /src/requirements/demo.txt
RUN /opt/medai/bin/pip install --require-hashes --only-binary=:all: -r /src/requirements/demo.txt
COPY pyproject.toml README.md LICENSE serve_config.yaml /src/
COPY registry /src/registry
COPY configs /src/configs
COPY storage /src/storage
COPY deployments /src/deployments
RUN /opt/medai/bin/pip install --no-deps --no-build-isolation /src \
 && /opt/medai/bin/python -m compileall -q /opt/medai/lib

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="MedAI Flow" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed id, so that volumes and Kubernetes' runAsUser can name it. No shell, no home of its own.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/medai \
      --shell /usr/sbin/nologin medai \
 && install -d -o medai -g medai -m 0700 /var/lib/medai
COPY --from=build /opt/medai /opt/medai
# KubeRay starts Ray from a login shell, whose PATH is the system's.
RUN ln -s /opt/medai/bin/medai /opt/medai/bin/ray /opt/medai/bin/serve /usr/local/bin/
ENV PATH=/opt/medai/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MEDAI_HOME=/var/lib/medai \
    MEDAI_LOG__FORMAT=json \
    MEDAI_SERVER__HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/medai
# No VOLUME: where nobody mounts one, a nameless one takes keys and anchors, and goes with the
# container. Without it a read-only root refuses them at once.
EXPOSE 8000 8090 9101
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('MEDAI_SERVER__PORT', '8000') + '/health/live', timeout=2)"]
ENTRYPOINT ["medai"]
CMD ["serve"]
