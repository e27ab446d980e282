# Two stages: one with the tools to build, one with what runs. Nothing secret is in either; the home folder is a volume.
# The base has Python 3.11 or newer with venv, useradd, and the certificates of the authorities it trusts.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# Where pip looks, when it is not PyPI: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/toolgate
# Every file is checked by its hash; none is built here, so there is no compiler.
COPY requirements.lock ./
RUN /opt/build/bin/pip download --quiet --progress-bar off --only-binary :all: --require-hashes -d /wheels \
        -r requirements.lock \
    && /opt/build/bin/pip install --quiet --no-index --find-links /wheels hatchling
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY sandboxes sandboxes
COPY policies policies
COPY tool_specs tool_specs
# Of the wheels that were checked, those that running takes: no linter, no test runner, no pip.
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation -w /wheels . \
    && /opt/build/bin/pip --python /opt/toolgate/bin/python install --quiet --no-index --find-links /wheels toolgate

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
# Native code depends on the CPU: a machine of another kind compiles the guests again at its first start.
RUN python -m sandboxes.guests && mkdir --mode 0700 home
VOLUME /home/toolgate/home
EXPOSE 8080
# By the name it listens on, which it answers to whatever TOOLGATE_HOSTS says; no proxy is asked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('0.0.0.0', 8080, timeout=2); \
c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Clients that reach it by another name than localhost need that name in TOOLGATE_HOSTS. With --json no key is written to
# the container's log.
CMD ["toolgate", "serve", "--host", "0.0.0.0", "--json"]
