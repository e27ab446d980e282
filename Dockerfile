# Two stages: one with the tools to build, one with what runs. Nothing secret is in either; the home folder is a volume.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/toolgate
COPY requirements.lock ./
RUN /opt/toolgate/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY sandboxes sandboxes
COPY policies policies
COPY tool_specs tool_specs
RUN /opt/toolgate/bin/pip install --no-deps --no-build-isolation .

FROM ${BASE}
RUN useradd --create-home --uid 10001 toolgate
COPY --from=build /opt/toolgate /opt/toolgate
USER toolgate
WORKDIR /home/toolgate
ENV PATH=/opt/toolgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TOOLGATE_GUESTS=/home/toolgate/guests \
    TOOLGATE_HOME=/home/toolgate/home \
    TOOLGATE_HOSTS="[localhost, 127.0.0.1]"
# Native code depends on the CPU: a machine of another kind compiles the guest again at its first start.
RUN python -m sandboxes.guests && mkdir --mode 0700 home
VOLUME /home/toolgate/home
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
# Clients that reach it by another name than localhost need that name in TOOLGATE_HOSTS.
CMD ["toolgate", "serve", "--host", "0.0.0.0"]
