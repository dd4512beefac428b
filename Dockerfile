# Spanledger's commands (gateway, rollup, migrate, ...), and with DEMO=1 what the demo application needs.
FROM python:3.13-slim
ARG DEMO=""
WORKDIR /spanledger
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY instrumentation instrumentation
COPY exporter exporter
COPY examples examples
RUN pip install --no-cache-dir ".[gateway,redis]" \
    && if [ -n "$DEMO" ]; then pip install --no-cache-dir "openai>=1.40" "anthropic>=0.39" "google-genai>=1.20" fastapi uvicorn httpx \
       opentelemetry-distro opentelemetry-instrumentation-fastapi; fi
RUN useradd --create-home --uid 10001 spanledger && mkdir -p /state && chown spanledger /state
USER spanledger
ENV XDG_STATE_HOME=/state PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["spanledger", "--help"]
