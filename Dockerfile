FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY engine ./engine
COPY migrations ./migrations
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir /wheels/*.whl
RUN useradd --uid 10001 --user-group --create-home --home-dir /data engine
USER 10001
WORKDIR /data
ENV PYTHONUNBUFFERED=1
EXPOSE 8080
ENTRYPOINT ["task-engine"]
CMD ["--help"]
