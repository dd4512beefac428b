"""Looks at every page of `spanledger ui` in a real browser: python browse.py CHROMIUM ADDRESS [DIRECTORY FOR PICTURES]

At three widths, light and dark: what axe finds, what the console says, and what is wider than the screen, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

SCREENS = ((1280, "light"), (768, "dark"), (390, "light"))
PATHS = ("/", "/?by=day", "/requests", "/users", "/features", "/models", "/trust", "/budgets", "/invoice", "/nowhere")


def figures(page: Page) -> None:
    """Wait for a page's figures, which may come after it."""
    page.wait_for_load_state("networkidle")
    page.wait_for_selector("#later", state="detached")


def look(page: Page, address: str, name: str, pictures: Path | None) -> dict[str, Any]:
    page.goto(address)
    figures(page)
    if pictures is not None:
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
    return {
        "violations": [f"{name}: {each['id']} {each['nodes'][0]['html'][:200]}" for each in Axe().run(page).response["violations"]],
        "wider": page.evaluate("document.documentElement.scrollWidth - innerWidth"),
        "charts": page.locator(".chart canvas").count(),
    }  # fmt: skip


def main() -> None:
    chromium, start, *directory = sys.argv[1:]
    pictures = Path(directory[0]) if directory else None
    base = start.partition("/?")[0]
    seen: dict[str, Any] = {"console": [], "pages": {}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, scheme in SCREENS:
            # axe is injected into the page, which the policy forbids; a first visit, with the policy, must say nothing.
            for bypass in (False, True):
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=bypass
                )
                page = context.new_page()
                page.goto(start)
                if not bypass:
                    page.on("console", lambda message: seen["console"].append(message.text))
                    page.on("pageerror", lambda error: seen["console"].append(str(error)))
                    page.goto(f"{base}/requests")
                    for link in ("table a[href^='/request?']", "table a[href^='/call?']"):
                        page.locator(link).first.focus()
                        page.keyboard.press("Enter")
                        figures(page)
                    seen["call"] = page.locator("h1").inner_text()
                    continue
                for path in PATHS:
                    name = f"{path.strip('/').replace('?', '-').replace('=', '-') or 'spend'}-{width}"
                    seen["pages"][name] = look(page, base + path, name, pictures)
            context.close()
        browser.close()
    print(json.dumps(seen))


main()
