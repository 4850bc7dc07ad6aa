"""Damage bytes and JSON values at random."""

import json

EXTREME = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
VALUES = [
    None, True, False, 0, -1, 1, 2, 7, 33, 10**4, 10**6, 10**9, 10**400, -(10**30), 0.5, 1e-320, 1e38, 1e308, float("nan"),
    float("inf"), "", "x", "x" * 10**5, "\ud800", "\x1b[2J\n", "../../victim", "__class__", [], [[]], {}, {"a": {}},
    [0] * 1000, ["x"] * 10**4, [10**9, 10**9], [64, 112], {"0": "a", "1": "a"}, {"0": None},
]  # fmt: skip


def mutate_bytes(rng, content: bytes) -> bytes:
    """Return `content` with one to four of: flipped, removed, repeated or inserted bytes, extreme integers, a cut end."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at = int(rng.integers(len(data)) if rng.random() < 0.5 else rng.integers(min(len(data), 200)))
        match rng.integers(7):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                del data[at : at + int(rng.integers(1, 64))]
            case 3:
                data[at:at] = data[at : at + int(rng.integers(1, 64))]
            case 4:
                data[at:at] = rng.bytes(int(rng.integers(1, 16)))
            case 5:
                value = EXTREME[rng.integers(len(EXTREME))]
                size = next(size for size in (1, 2, 4, 8) if value < 256**size)
                data[at : at + size] = value.to_bytes(size, ("little", "big")[rng.integers(2)])
            case 6:
                del data[at:]
    return bytes(data)


def mutate_json(rng, value):
    """Return a copy of a JSON value in which one entry, at any depth, is replaced, removed or added."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    for _ in range(rng.integers(1, 3)):
        container, key = places[rng.integers(len(places))]
        hostile = VALUES[rng.integers(len(VALUES))]
        try:
            if rng.random() < 0.15:
                del container[key]
            elif rng.random() < 0.1 and isinstance(container, dict):
                container[f"extra_{key}"] = hostile
            else:
                container[key] = hostile
        except (KeyError, IndexError):
            pass  # an earlier change took it
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def to_json(rng, value) -> bytes:
    """Return a mutated value as JSON, sometimes with damaged bytes or with something in excess."""
    if rng.random() < 0.12:
        return stretch_json(rng, value).encode()
    content = json.dumps(mutate_json(rng, value)).encode("utf-8", "surrogatepass")
    return mutate_bytes(rng, content) if rng.random() < 0.3 else content


def stretch_json(rng, value: dict) -> str:
    """Return an object as JSON with one entry in excess: nested deep, of many entries or long text, or there twice."""
    size, name = int(10 ** rng.uniform(1, 5.3)), str(rng.choice(list(value)))
    match rng.integers(5):
        case 0:
            excess = ("[", '{"a":')[rng.integers(2)] * size  # without an end
            return excess if rng.random() < 0.5 else f'{json.dumps(value)[:-1]}, "{name}": {excess}'
        case 1:
            excess = "[" * size + "]" * size
        case 2:
            places = [key for key in value if isinstance(value[key], dict)] or [name]
            name, excess = str(rng.choice(places)), json.dumps({str(i): f"label {i}" for i in range(size)})
        case 3:
            excess = json.dumps({"0": "x" * 10 * size, "1": "y"} if isinstance(value[name], dict) else "x" * 10 * size)
        case _:
            excess = json.dumps(VALUES[rng.integers(len(VALUES))])
    return f'{json.dumps(value)[:-1]}, "{name}": {excess}}}'  # the key is there twice: the last one counts
