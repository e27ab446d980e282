# Redis of Debian packages. What it keeps is on disk before it is answered for.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*
USER redis
WORKDIR /var/lib/redis
VOLUME /var/lib/redis
EXPOSE 6379
# In the network of the composition only: it is published nowhere.
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis", "--save", "", \
     "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
