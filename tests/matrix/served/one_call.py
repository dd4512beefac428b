"""One call with each SDK that is installed; prints how many."""

from __future__ import annotations

import importlib.util

calls = 0
if importlib.util.find_spec("openai"):
    import openai

    openai.OpenAI().responses.create(model="gpt-5.4-mini", input="one call")
    calls += 1
if importlib.util.find_spec("anthropic"):
    import anthropic

    messages: list = [{"role": "user", "content": "one call"}]
    anthropic.Anthropic().messages.create(model="claude-haiku-4-5", max_tokens=10, messages=messages)
    calls += 1
if importlib.util.find_spec("google") and importlib.util.find_spec("google.genai"):
    from google import genai

    client = genai.Client()  # kept: it closes its connections when it is collected
    client.models.generate_content(model="gemini-3.5-flash", contents="one call")
    calls += 1
print(calls)
