# syntax=docker/dockerfile:1
# The images that docker-compose.yml builds, one target each: app, minio, mosquitto, prometheus.

# MinIO publishes sources only, so server and client are built from their Go modules.
FROM golang:1.24-bookworm AS minio-build
ENV CGO_ENABLED=0 GOBIN=/out
RUN go install -trimpath -ldflags="-s -w" github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
RUN go install -trimpath -ldflags="-s -w" github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9

FROM debian:bookworm-slim AS minio
COPY --from=minio-build /out/minio /out/mc /usr/local/bin/
RUN useradd --system --uid 10001 minio && install -d -o minio -g minio /data
USER minio
ENV HOME=/tmp
EXPOSE 9000 9001
CMD ["minio", "server", "/data", "--address", ":9000", "--console-address", ":9001"]

# The Debian packages that the tests use (deploy/versions.toml).
FROM debian:bookworm-slim AS mosquitto
RUN apt-get update && apt-get install -y --no-install-recommends mosquitto mosquitto-clients \
    && rm -rf /var/lib/apt/lists/* && install -d -o 1883 -g 1883 /mosquitto/data
USER 1883:1883
EXPOSE 1883 8883
CMD ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]

FROM debian:bookworm-slim AS prometheus
RUN apt-get update && apt-get install -y --no-install-recommends prometheus prometheus-alertmanager \
    && rm -rf /var/lib/apt/lists/* && install -d -o prometheus -g prometheus /prometheus /alertmanager
USER prometheus
EXPOSE 9090 9093
CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]

FROM python:3.11-slim-bookworm AS app
# openssl creates the broker's certificate; see `certificate` in docker-compose.yml.
RUN apt-get update && apt-get install -y --no-install-recommends openssl && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.lock .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
    && useradd --system --uid 10001 twin && install -d -o twin -g twin /app/var /certificate /training \
    /published/reports /published/data/quarantine /app/reports /app/data/quarantine
COPY . .
USER twin
# The root file system is read-only in compose, so caches go to /tmp.
ENV HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DO_NOT_TRACK=1 BENTOML_DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true GX_ANALYTICS_ENABLED=false DVC_NO_ANALYTICS=1
EXPOSE 3100 9091
CMD ["python", "-m", "serving"]
