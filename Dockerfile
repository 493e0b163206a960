# The worker's image. Its steps are in scripts/build-image.sh, which the tests run as well.
# It holds no handlers: mount a folder with your modules at /handlers, or build FROM this image; name them in HANDLERS.

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml requirements-image.lock README.md LICENSE ./
COPY scripts scripts
COPY streams streams
COPY agents agents
COPY tables tables
COPY port port
COPY web web
RUN sh scripts/build-image.sh /app

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin worker \
    && mkdir /data /handlers \
    && chown 10001 /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONPATH=/handlers \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data
USER 10001
WORKDIR /data
# The tables' local copies: kept, a restart takes seconds; lost, they are read again from Kafka.
VOLUME /data
EXPOSE 6066
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s --retries=4 CMD ["python", "/app/bin/healthcheck.py"]
ENTRYPOINT ["faust", "-A", "streams.app"]
CMD ["worker", "-l", "info"]
