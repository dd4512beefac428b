"""Every method of an SDK's resources, called while a user is in baggage: prints "walked", or complains.

opentelemetry-instrument python egress.py openai|anthropic|google sync|async
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import warnings
from pathlib import Path

from google import genai
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials
from opentelemetry import baggage, context

sys.path.insert(0, str(Path(__file__).parent.parent))
from sdk_walk import Listener, walk

warnings.simplefilter("ignore")
sdk, style = sys.argv[1:]
context.attach(baggage.set_baggage("user.id", "ada"))
listener = Listener()


def fetch_a_token() -> None:
    """Google's own library asks for tokens, through requests and urllib3."""
    credentials = Credentials(
        None, refresh_token="r", token_uri=f"{listener.url}/token", client_id="i", client_secret="s"
    )
    client = genai.Client(vertexai=True, project="p", location="l", credentials=credentials)
    with client, contextlib.suppress(RefreshError):  # an empty answer has no token
        client._api_client._access_token()


complaints = asyncio.run(walk(sdk, listener, asynchronous=style == "async")).complaints()
before = len(listener.requests)
if sdk == "google":
    fetch_a_token()
    [(path, headers)] = listener.requests[before:]
    assert ("traceparent" in headers, "baggage" in headers) == (True, False), (path, headers)
assert not complaints, "\n".join(complaints)
print("walked")
