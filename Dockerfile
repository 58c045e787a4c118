# GraphiQL, the page at /graphql.
FROM node:22-slim AS web
WORKDIR /src/schema/graphiql
COPY schema/graphiql/package.json schema/graphiql/package-lock.json schema/graphiql/.npmrc ./
RUN npm ci --no-audit --no-fund
COPY schema/graphiql ./
RUN npm run build

# The service and what it depends on, as locked, in one virtual environment.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
ENV UV_PROJECT_ENVIRONMENT=/opt/lifecycle \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project
COPY schema ./schema
COPY lifecycle ./lifecycle
COPY migrations ./migrations
COPY --from=web /src/schema/static ./schema/static
RUN uv sync --frozen --no-dev --no-editable

FROM python:3.13-slim
# Whatever is published reaches it on every address; without LIFECYCLE_DATABASE_URL the embedded
# PostgreSQL keeps its data here. So whoever reaches it has to sign in.
ENV LIFECYCLE_HOST=0.0.0.0 \
    LIFECYCLE_SIGN_IN=tokens \
    LIFECYCLE_DATA_DIR=/var/lib/lifecycle \
    PATH=/opt/lifecycle/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 1000 --home-dir /var/lib/lifecycle --create-home lifecycle
COPY --from=build /opt/lifecycle /opt/lifecycle
USER lifecycle
WORKDIR /var/lib/lifecycle
VOLUME /var/lib/lifecycle
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('LIFECYCLE_PORT', '8000') + '/healthz', timeout=4)"]
CMD ["lifecycle", "serve"]
