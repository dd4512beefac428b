"""`spanledger ui`: who may see it, what it shows, that it writes nothing, and that every figure has its SQL."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from empty_ledger import empty_ledger
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.ui import server
from spanledger_clickhouse.ui.filters import BadQuestionError, filters_of
from spanledger_clickhouse.ui.server import UPLOAD_HEADER, Ui
from synthetic import call

TOKEN = "a-token-of-twenty-four-characters"
HOSTILE = "</script><img src=x onerror=alert(1)>'\"=cmd|' /C calc'!A0\u202e" + "x" * 180
PAGES = ("/", "/requests", "/users", "/features", "/models", "/trust", "/budgets", "/invoice")


def client_of(target: Target, *, signed_in: bool = True) -> TestClient:
    client = TestClient(Ui(target, TOKEN).app(), base_url="http://127.0.0.1")
    if signed_in:
        assert client.get(f"/?token={TOKEN}").status_code == 200
    return client


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(server, "PAINT_SECONDS", None)  # pages are whole, however busy the machine is
    return empty_ledger(tmp_path / "ledger")


@pytest.fixture
def shop(where: Target) -> TestClient:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = [
        call(
            span_id=f"{n:016x}", trace_id=f"{n // 3:032x}", response_id=f"r-{n}", start_time=today + timedelta(seconds=n), cost_usd=Decimal("1.25"),
            feature="chat" if n % 2 else HOSTILE, user_id=f"u{n % 3}", request_id=f"req-{n // 3}", attempts=1 + n % 2,
            time_to_first_chunk_us=100_000,
        )
        for n in range(9)
    ]  # fmt: skip
    rows.append(
        call(
            span_id="f" * 16,
            start_time=today,
            cost_usd=None,
            request_model="gpt-9",
            attribution_reason="absent",
            code_file="a.py",
        )
    )
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    return client_of(where)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return html.unescape(re.sub(r"<[^>]+>", " ", answer.text))


def test_only_who_has_the_token_sees_anything(where: Target):
    client = client_of(where, signed_in=False)
    for path in (*PAGES, "/static/app.js", "/?token=wrong"):
        assert client.get(path).status_code == 401, path
    answer = client.get(f"/users?by=model&token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/users?by=model")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/users", headers={"host": "attacker.example"}).status_code == 400, (
        "a name that was made to point here"
    )


@pytest.mark.parametrize("path", [*PAGES, "/static/app.js", "/nowhere"])
def test_nothing_comes_from_elsewhere(path: str, shop: TestClient):
    answer = shop.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    if "html" in answer.headers["content-type"]:
        assert not re.search(
            r"https?://|<script(?![^>]*(src=\"/static|type=\"application/json))|style=| on\w+=\"", answer.text
        )


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_ledger_says_what_to_do(path: str, where: Target):
    text = text_of(client_of(where).get(path))
    assert "Spanledger" in text
    assert "nan" not in text.lower().split()


def test_spend_adds_up_and_leads_to_a_call(shop: TestClient):
    page = shop.get("/")
    text = text_of(page)
    assert "$11.25" in text
    assert HOSTILE.partition("\u202e")[0] in text
    [address] = {html.unescape(link) for link in re.findall(r'href="(/\?[^"]*where=feature%3Dchat)"', page.text)}
    assert "$5.00" in text_of(shop.get(address)), "the four calls of chat"
    requests = shop.get("/requests")
    request = html.unescape(re.findall(r'href="(/request\?id=[^"]+)"', requests.text)[0])
    shown = shop.get(request)
    assert "$3.75" in text_of(shown)
    calls = {html.unescape(link) for link in re.findall(r'href="(/call\?[^"]+)"', shown.text)}
    assert len(calls) == 3
    call_text = " ".join(text_of(shop.get(min(calls))).split())
    assert "output 20" in call_text
    assert "62,500" in call_text, "1.25 USD for 20 tokens are 62,500 USD a million"


@pytest.mark.parametrize(("path", "name"), [("/users", "user"), ("/features", "feature"), ("/models", "model")])
def test_a_name_leads_to_its_own_spend(path: str, name: str, shop: TestClient):
    page = shop.get(path)
    links = [html.unescape(link) for link in re.findall(rf'href="(/\?[^"]*where={name}%3D[^"]*)"', page.text)]
    spends = [re.search(r"<dt>Spend</dt><dd>([^<]+)", shop.get(link).text) for link in links]
    assert sum(Decimal(found[1].removeprefix("$")) for found in spends if found) == Decimal("11.25")
    assert "nan" not in text_of(page).split()


def test_an_address_stays_on_its_host_and_a_ticket_lets_in_once(where: Target):
    pages = Ui(where, TOKEN)
    ticket = pages.ticket()
    client = TestClient(pages.app(), base_url="http://127.0.0.1")
    assert (
        client.get(f"http://127.0.0.1//evil.example/x?token={TOKEN}", follow_redirects=False).headers["location"]
        == "/evil.example/x"
    )
    other = TestClient(pages.app(), base_url="http://127.0.0.1")
    assert other.get(f"/?token={ticket}").status_code == 200
    third = TestClient(pages.app(), base_url="http://127.0.0.1")
    assert third.get(f"/?token={ticket}").status_code == 401


def test_a_long_request_is_whole_in_its_sum(where: Target):
    at = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = [call(span_id=f"{n:016x}", start_time=at, cost_usd=Decimal("0.01"), request_id="big") for n in range(1200)]
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    text = text_of(client_of(where).get("/request?id=big"))
    assert "$12.00" in text
    assert "The first 1,000 of 1,200." in text


def test_a_name_from_a_request_stays_text(shop: TestClient):
    for path in ("/", "/features", "/requests"):
        answer = shop.get(path)
        assert "<img" not in answer.text
        for script in re.findall(r'<script type="application/json">(.*?)</script>', answer.text, re.DOTALL):
            json.loads(script)


def test_the_sql_of_a_table_gives_its_figures(shop: TestClient, where: Target):
    for path in ("/", "/requests", "/users", "/trust"):
        statements = [
            html.unescape(sql) for sql in re.findall(r"<pre[^>]*>(.*?)</pre>", shop.get(path).text, re.DOTALL)
        ]
        assert statements
        with open_client(where) as client:
            client.command(f"USE `{where.database}`")
            answers = [client.query(sql) for sql in statements]
        if path == "/":
            by_feature = next(answer for answer in answers if "feature" in answer.column_names)
            assert sum(row[1] or 0 for row in by_feature.result_rows) == Decimal("11.25")


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "by=planet",
        "where=planet%3Dmars",
        "from=2026-03-02&to=2026-03-01",
        "to=9999-12-31",
        "from=0001-01-01",
    ],
)
def test_an_address_that_is_wrong_says_so(query: str, shop: TestClient):
    answer = shop.get(f"/?{query}")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


def test_a_filter_may_be_added_and_removed():
    filters = filters_of(
        [("where", "user=a=b"), ("where", "feature="), ("by", "model")], datetime(2026, 3, 5, tzinfo=UTC).date()
    )
    assert filters.where == (("user", "a=b"), ("feature", ""))
    assert filters.link("/", without=("feature", "")) == "/?from=2026-03-01&to=2026-03-05&by=model&where=user%3Da%3Db"
    with pytest.raises(BadQuestionError):
        filters_of([("by", "c.user_id")], datetime(2026, 3, 5, tzinfo=UTC).date())


def test_an_invoice_closes_to_the_cent_or_says_why_not(shop: TestClient, where: Target):
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    equal = f"day,provider,amount_usd\n{day},openai,11.25\n"
    assert shop.post("/invoice", content=equal).status_code == 403, "only the page itself may send one"
    text = text_of(shop.post("/invoice", content=equal, headers={UPLOAD_HEADER: "1"}))
    assert "They are   equal   to the cent" in re.sub(r"\s{2,}", "   ", text)
    text = text_of(shop.post("/invoice", content=equal.replace("11.25", "10.00"), headers={UPLOAD_HEADER: "1"}))
    assert "-$1.25 apart" in text
    broken = shop.post("/invoice", content="a,b\n1,2\n", headers={UPLOAD_HEADER: "1"})
    assert (broken.status_code, "has no day" in broken.text) == (422, True)
    with open_client(where) as client:
        assert client.query(f"SELECT count() FROM `{where.database}`.invoices").result_rows == [(0,)], (
            "nothing is stored"
        )


def test_a_page_that_takes_long_is_shown_before_its_figures(shop: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "PAINT_SECONDS", 0.0)
    first = shop.get("/?by=model").text
    [key] = re.findall(r'id="later"[^>]*data-key="([^"]+)"', first)
    assert "Spend by model" not in first
    assert 'name="from"' in first  # its filters are there
    page = shop.get("/?by=model", headers={server.LATER_HEADER: key}).text
    assert "Spend by model" in page
    assert 'id="later"' not in page
    assert (
        "No call has the request id nothing"
        in shop.get("/request?id=nothing", headers={server.LATER_HEADER: "no such key"}).text
    )
    assert shop.get("/?by=nonsense", headers={server.LATER_HEADER: "no such key"}).status_code == 400


def test_pages_that_are_never_fetched_do_not_pile_up(where: Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "PAINT_SECONDS", 0.0)
    monkeypatch.setattr(server, "MAX_LATER", 2)
    pages = Ui(where, TOKEN)
    shop = TestClient(pages.app(), base_url="http://127.0.0.1")
    shop.get(f"/?token={TOKEN}")
    keys = [re.findall(r'data-key="([^"]+)"', shop.get("/trust").text)[0] for _ in range(3)]
    assert len(pages._later) == 2
    assert (
        "Not attributed" in shop.get("/trust", headers={server.LATER_HEADER: keys[0]}).text
    )  # forgotten: it is made again
    assert "Not attributed" in shop.get("/trust", headers={server.LATER_HEADER: keys[2]}).text
