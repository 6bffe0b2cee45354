"""What happens in the demo's shop, as Kafka messages.

Pure: the same random generator state, topic and number always give the same message. About
one message in a thousand is malformed, in one of the ways that real producers get it wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

# What the Kafka client takes: a list of pairs, so that a name may come twice.
Headers = list[tuple[str, str | bytes | None]]
Event = tuple[bytes | None, bytes | None, Headers, str]

# Share of all messages, in percent. Clicks outnumber orders in every shop.
TOPIC_WEIGHTS: Mapping[str, int] = {
    "orders": 14,
    "payments": 14,
    "customers": 6,
    "inventory": 14,
    "shipments": 8,
    "clicks": 36,
    "reviews": 5,
    "returns": 3,
}
TOPICS: tuple[str, ...] = tuple(TOPIC_WEIGHTS)

VALID = "valid"
TOMBSTONE = "tombstone"
MALFORMED_KINDS = ("broken_json", "invalid_utf8", "truncated", "nan", "empty")
MALFORMED_SHARE = 0.001
# Of the topics that describe the present state of a thing, where a null value deletes it.
TOMBSTONE_SHARE = 0.01
TOMBSTONE_TOPICS = frozenset({"customers", "inventory", "reviews"})

# The shop's own clock. It starts here and moves by this much per message, so that the
# content does not depend on when the demo runs; Kafka's timestamps are the real time.
SHOP_OPENED = datetime(2026, 1, 1, tzinfo=UTC)
SHOP_TICK = timedelta(milliseconds=40)

_FIRST_NAMES = ("Ada", "Bj\u00f6rn", "Chlo\u00e9", "Dmitri", "Elif", "\u0141ucja", "Noor")
_LAST_NAMES = ("Novak", "M\u00fcller", "Garc\u00eda", "Okafor", "Tanaka", "\u00d6zt\u00fcrk")
_CITIES = ("Lisbon", "K\u00f6ln", "Krak\u00f3w", "Osaka", "S\u00e3o Paulo", "\u6771\u4eac")
_PAGES = ("/", "/search", "/cart", "/product", "/checkout", "/help")
_CARRIERS = ("DHL", "UPS", "PostNL", "GLS")
_COMMENTS = ("Works well.", "Too small for me.", "Tr\u00e8s bien", "Arrived late, still good.",
             "\u3068\u3066\u3082\u826f\u3044", "Broke after a week \U0001f614")

Body = dict[str, Any]


def event(rng: random.Random, topic: str, n: int) -> Event:
    """The nth message of the shop, for one of its topics.

    Returns (key, value, headers, kind). The value is JSON in UTF-8, None for a tombstone
    (kind "tombstone"), or bad in the way that its kind names (one of MALFORMED_KINDS).
    Raises KeyError for a topic that the shop does not have.
    """
    key, body = _MAKERS[topic](rng, n)
    body["occurred_at"] = (SHOP_OPENED + n * SHOP_TICK).isoformat(timespec="milliseconds")
    headers: Headers = [
        ("source", rng.choice((b"web", b"app", b"store"))),
        ("schema", f"{topic}/1".encode()),
        ("trace-id", f"{rng.getrandbits(64):016x}".encode()),
    ]
    draw = rng.random()
    if draw < MALFORMED_SHARE:
        kind = rng.choice(MALFORMED_KINDS)
        return key, _malformed(rng, body, kind), headers, kind
    if topic in TOMBSTONE_TOPICS and draw < MALFORMED_SHARE + TOMBSTONE_SHARE:
        return key, None, headers, TOMBSTONE
    return key, _encode(body), headers, VALID


def pick_topic(rng: random.Random) -> str:
    """One of TOPICS, drawn by TOPIC_WEIGHTS."""
    return rng.choices(TOPICS, weights=tuple(TOPIC_WEIGHTS.values()))[0]


def _encode(body: Body) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _malformed(rng: random.Random, body: Body, kind: str) -> bytes:
    """The body, spoilt; every result is refused by a strict JSON or UTF-8 check."""
    good = _encode(body)
    if kind == "empty":
        return b""
    if kind == "broken_json":
        # A Python dict printed instead of encoded: single quotes.
        return repr(body).encode()
    if kind == "invalid_utf8":
        # A producer that encodes as Latin-1: a lone 0xe9 byte inside a string.
        return good[:-1] + b',"note":"caf\xe9"}'
    if kind == "truncated":
        return good[: rng.randrange(1, len(good))]
    if kind == "nan":
        # What Python's own encoder writes for a float that is not a number.
        return json.dumps(body | {"score": float("nan")}, ensure_ascii=False).encode()
    raise ValueError(f"no such kind of malformed message: {kind!r}")


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST_NAMES)} {rng.choice(_LAST_NAMES)}"


def _id(prefix: str, number: int) -> str:
    return f"{prefix}-{number:07d}"


def _order_id(rng: random.Random, n: int) -> str:
    """An order placed at most about a thousand messages ago."""
    return _id("ord", max(0, n - rng.randrange(1000)))


def _cents(rng: random.Random, top: int) -> float:
    return rng.randrange(99, top) / 100


def _order(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    order = _id("ord", n)
    lines: list[Body] = [
        {"sku": _id("sku", rng.randrange(5000)), "quantity": rng.randrange(1, 5),
         "price": _cents(rng, 20_000)}
        for _ in range(rng.randrange(1, 4))
    ]
    total = round(sum(line["quantity"] * line["price"] for line in lines), 2)
    return order.encode(), {
        "order_id": order, "customer_id": _id("cus", rng.randrange(20_000)),
        "status": rng.choice(("placed", "paid", "packed")), "lines": lines,
        "total": total, "currency": rng.choice(("EUR", "USD", "JPY")),
    }


def _payment(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    order = _order_id(rng, n)
    return order.encode(), {
        "payment_id": _id("pay", n), "order_id": order, "amount": _cents(rng, 40_000),
        "method": rng.choice(("card", "transfer", "wallet")),
        "accepted": rng.random() < 0.97,
    }


def _customer(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    customer = _id("cus", rng.randrange(20_000))
    return customer.encode(), {
        "customer_id": customer, "name": _person(rng), "city": rng.choice(_CITIES),
        "newsletter": rng.random() < 0.3, "revision": n,
    }


def _inventory(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    sku = _id("sku", rng.randrange(5000))
    return sku.encode(), {
        "sku": sku, "warehouse": rng.choice(("north", "south", "port")),
        "on_hand": rng.randrange(500), "reserved": rng.randrange(40), "revision": n,
    }


def _shipment(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    order = _order_id(rng, n)
    return order.encode(), {
        "shipment_id": _id("shp", n), "order_id": order, "carrier": rng.choice(_CARRIERS),
        "city": rng.choice(_CITIES), "weight_grams": rng.randrange(50, 20_000),
        "latitude": round(rng.uniform(-60, 70), 5),
        "longitude": round(rng.uniform(-180, 180), 5),
    }


def _click(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    # A visitor who refused cookies has no session, so the message has no key.
    session = f"{rng.getrandbits(48):012x}" if rng.random() < 0.9 else None
    return session.encode() if session else None, {
        "session": session, "page": rng.choice(_PAGES), "sku": _id("sku", rng.randrange(5000)),
        "milliseconds": rng.randrange(20, 9000), "mobile": rng.random() < 0.6, "sequence": n,
    }


def _review(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    review = _id("rev", n)
    return review.encode(), {
        "review_id": review, "sku": _id("sku", rng.randrange(5000)), "author": _person(rng),
        "stars": rng.randrange(1, 6), "comment": rng.choice(_COMMENTS),
    }


def _return(rng: random.Random, n: int) -> tuple[bytes | None, Body]:
    order = _order_id(rng, n)
    return order.encode(), {
        "return_id": _id("ret", n), "order_id": order,
        "reason": rng.choice(("too small", "damaged", "late", "changed my mind")),
        "refund": _cents(rng, 20_000),
    }


_MAKERS: Mapping[str, Callable[[random.Random, int], tuple[bytes | None, Body]]] = {
    "orders": _order,
    "payments": _payment,
    "customers": _customer,
    "inventory": _inventory,
    "shipments": _shipment,
    "clicks": _click,
    "reviews": _review,
    "returns": _return,
}
