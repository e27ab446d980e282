# HAProxy of Debian packages, with the one configuration beside this file.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
COPY haproxy.cfg /etc/haproxy/haproxy.cfg
USER haproxy
EXPOSE 8080
CMD ["haproxy", "-W", "-f", "/etc/haproxy/haproxy.cfg"]
