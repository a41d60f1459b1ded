"""Damages files: bytes of any kind, and the content of documents and archives, so that readers get past the surface."""

import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Literal

import yaml

Kind = Literal["bytes", "text", "json", "yaml", "zip", "png", "numbers"]

DEEP = 1500
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 255, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"),
    float("nan"), "", " ", "a", "é", "\0", "a\nb\r\n\x0b\u2028c", "\ud800", "x" * 3000, "../x", "/", "s3://b/x", "nan",
    "1e5", "0" * 64, [], {}, [None], [[1]], {"": 0}, {"kind": "x"}, {"weight": 1}, [0] * 300, ["a"] * 3,
]  # fmt: skip
"""Values that a document may hold in the place of the right one."""

SNIPPETS = [
    b"\0", b"\xff", b"\xff\xfe", b"\n", b"\r\n", b"[" * DEEP, b"{" * 300, b'{"a":' * DEEP, b"- " * 500, b"&a [*a, *a]",
    b"*a", b"<<: x", b"<<: [1]", b"!!python/object:os.system x", b"!!binary x", b"!!timestamp x", b"!!int x",
    b"!!set {a}",
    b"? [a]\n: b", b"2024-13-45", b"0x", b"0b", b"1:99:99", b"1_000", b"9" * 5000, b"1e999", b"NaN", b"-Infinity",
    b"'", b'"', b"%YAML 9.9\n---\n", b"---\n---\n", b"\t", b": ", b"# ", b"..", b"%2e%2e/", b"//", b"@", b"[::1", b"]",
    b"\xed\xa0\x80", "\u2028".encode(), b"?", b"=", b"\x7f", b"x" * 2000, b"PK\x05\x06" + bytes(18), b"\x93NUMPY",
    b"IEND\xae\x42\x60\x82", b"(((((", b"'descr': '|O'", b"'descr': '<V9'", b"'<M8'", b"'shape': (99999999999,)",
]  # fmt: skip
"""Bytes that readers of one format or another stumble over."""


def mutated(content: bytes, kind: Kind, chance: random.Random) -> bytes:
    """Returns a damaged copy of a file.

    Args:
        content: The file.
        kind: What it holds; damages the parts of it as well as the whole.
        chance: Decides everything.
    """
    for _ in range(chance.randint(1, 3)):
        damage = _INNER.get(kind, _bytes) if chance.random() < 0.75 else _bytes
        content = damage(content, chance)
    return content


def _bytes(content: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(content))
    length = chance.choice([1, 1, 2, 4, 8, 64, len(content)])
    rest = content[at + length :]
    match chance.randint(0, 6):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + rest
        case 2:
            return content[:at] + chance.choice(SNIPPETS) + content[at:]
        case 3:
            return content[:at] + chance.choice(SNIPPETS) + rest
        case 4:
            return (
                content[:at]
                + bytes(chance.randint(0, 255) for _ in range(min(length, 8)))
                + content[at + min(length, 8) :]
            )
        case 5:
            number = chance.choice([0, 1, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1])
            return content[:at] + number.to_bytes(8, chance.choice(["little", "big"]))[-length:] + rest
        case _:
            return content[:at] + content[at : at + length] * chance.randint(2, 40) + rest


def _json(content: bytes, chance: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(content, chance)
    return json.dumps(_document(document, chance)).encode()


def _yaml(content: bytes, chance: random.Random) -> bytes:
    try:
        document = yaml.safe_load(content)
        return yaml.safe_dump(_document(document, chance), sort_keys=False).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError):
        return _bytes(content, chance)


def _document(document: Any, chance: random.Random) -> Any:
    """Puts another value at one place of nested dicts and lists, or removes, renames or adds one."""
    if not isinstance(document, dict | list) or not document or chance.random() < 0.15:
        return chance.choice(VALUES)
    if isinstance(document, list):
        place = chance.randrange(len(document))
        rest = [document[place + 1 :], [*document[place:]]]
        return [*document[:place], _document(document[place], chance), *chance.choice(rest)]
    key = chance.choice(list(document))
    match chance.randint(0, 7):
        case 0:
            return {name: value for name, value in document.items() if name != key}
        case 1:
            new = chance.choice(["", "x", f"{key}s", "\0", "é\n", f"{key}".upper()])
            return {new if name == key else name: value for name, value in document.items()}
        case 2:
            return {**document, chance.choice(["", "x", "kind", "weight", "a\nb", "\ud800"]): chance.choice(VALUES)}
        case _:
            return {**document, key: _document(document[key], chance)}


def _zip(content: bytes, chance: random.Random) -> bytes:
    """Damages the members of a zip file, whose checksums are right again then."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return _bytes(content, chance)
    if not members:
        return _bytes(content, chance)
    place = chance.randrange(len(members))
    name, member = members[place]
    match chance.randint(0, 5):
        case 0:
            members.pop(place)
        case 1:
            members[place] = (chance.choice(["", "/", "../x", "x\n", f"{name}/", name * 2, "mu.npy"]) or "x", member)
        case 2:
            members.append((name, member))
        case _:
            members[place] = name, _bytes(member, chance)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for each, inside in members:
            archive.writestr(zipfile.ZipInfo(each), inside)
    return written.getvalue()


def _png(content: bytes, chance: random.Random) -> bytes:
    """Damages a chunk of a PNG file, whose checksum is right again then."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return _bytes(content, chance)
    place = chance.randrange(len(chunks))
    name, inside = chunks[place]
    if name == b"IDAT" and chance.random() < 0.5:
        inside = zlib.compress(bytes(chance.choice([0, 10, 1000, 10**6])))
    else:
        inside = _bytes(inside, chance)
    kinds = [name, b"tRNS", b"PLTE", b"eXIf", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fdAT", b"fcTL", b"gAMA", b"pHYs"]
    chunks[place] = (chance.choice(kinds), inside) if chance.random() < 0.3 else (name, inside)
    return content[:8] + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


_INNER: dict[Kind, Callable[[bytes, random.Random], bytes]] = {"json": _json, "yaml": _yaml, "zip": _zip, "png": _png}
