"""Payloads: large values, plain keys, each with its TTL."""

import pytest

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.payloads import Payloads


@pytest.fixture
def payloads(prefix: str) -> Payloads:
    return Payloads(Keys(prefix))


async def test_a_payload_comes_back_as_it_was_until_it_is_dropped(client, payloads):
    body = b"\x00\xff" * 350_000
    await client.run(payloads.put_payload("j", body, 120_000))
    assert await client.run(payloads.get_payload("j")) == body
    assert 119_000 < await client.run(command("PTTL", payloads.keys.payload("j"))) <= 120_000
    for _ in range(2):
        await client.run(payloads.drop("j"))
        assert await client.run(payloads.get_payload("j")) is None


async def test_each_lease_has_its_own_result(client, payloads):
    await client.flush(payloads.put_result("j", "l1", "{}", 90_000), payloads.put_result("j", "l2", '{"a":1}', 90_000))
    assert await client.run(payloads.get_result("j", "l1")) == b"{}"
    assert await client.run(payloads.get_result("j", "l2")) == b'{"a":1}'
    assert 89_000 < await client.run(command("PTTL", payloads.keys.result("j", "l2"))) <= 90_000
    await client.run(payloads.drop("j", "l1"))
    assert await client.run(payloads.get_result("j", "l1")) is None
    assert await client.run(payloads.get_result("j", "l2")) is not None
