"""The ops port's metrics, as a scraper reads them."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families as parse


async def fetch(ops_address: str, path: str) -> tuple[int, str]:
    """Return the status and the text of a page."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{ops_address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def scrape(ops_address: str) -> dict[str, float]:
    """Return the samples, named as Prometheus writes them: ``name{label="value"}``, labels sorted."""
    status, text = await fetch(ops_address, "/metrics")
    assert status == 200
    samples: dict[str, float] = {}
    for family in parse(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in samples, f"{key} is there twice"
            samples[key] = sample.value
    return samples
