"""Calls of the OpenAI SDK with another instrumentor installed before Spanledger's or after it.

python coexistence.py openllmetry before|after        prints the scopes of the spans that ended
"""

from __future__ import annotations

import sys

import openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import spanledger
from spanledger.instrumentors import OpenAIInstrumentor as Ours

seen = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(seen))
trace.set_tracer_provider(provider)


def theirs() -> None:
    if sys.argv[1] == "openllmetry":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)
    elif sys.argv[1] == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)
    elif sys.argv[1] == "official":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)
    else:
        import logfire

        logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[SimpleSpanProcessor(seen)])
        logfire.instrument_openai()


def ours() -> None:
    spanledger.install(provider)
    Ours().instrument(tracer_provider=provider, skip_dep_check=True)


for instrument in (theirs, ours) if sys.argv[2] == "before" else (ours, theirs):
    instrument()
client = openai.OpenAI()
messages = [{"role": "user", "content": "how much is it?"}]
client.chat.completions.create(model="gpt-4.1-mini", messages=messages)
list(client.chat.completions.create(model="gpt-4.1-mini", messages=messages, stream=True))
client.chat.completions.with_raw_response.create(model="gpt-4.1-mini", messages=messages).parse()
scopes = [span.instrumentation_scope.name for span in seen.get_finished_spans()]
print(sum(scope == "spanledger.openai" for scope in scopes), sum(scope != "spanledger.openai" for scope in scopes))
