"""What the reference library says of small .safetensors files, good ones and bad ones: test/fixtures/safetensors-verdicts.json.

    python3 test/python/safetensors_verdicts.py           writes the fixture anew (needs: pip install safetensors numpy)
    python3 test/python/safetensors_verdicts.py --check   only says whether the installed library still gives these verdicts

The same library gives the same file, byte for byte. test/safetensors-verdicts.test.ts holds linrec's reader against it.
"""

import base64
import json
import random
import re
import struct
import sys
import tempfile
from pathlib import Path

try:
    import safetensors
    from safetensors import deserialize, safe_open
except ImportError:
    sys.exit("skipped: no safetensors (pip install -r test/python/requirements.txt)")

FIXTURE = Path(__file__).parent.parent / "fixtures" / "safetensors-verdicts.json"
MUTATIONS = 140
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64,
    "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

cases = {}


def raw(name, data):
    assert name not in cases, name
    cases[name] = data


def file(name, header, data=b"", claimed=None):
    """A file of this header (text or bytes), with its length in front, or a claimed one."""
    text = header if isinstance(header, bytes) else header.encode()
    raw(name, struct.pack("<Q", len(text) if claimed is None else claimed) + text + data)


def tensor(dtype="F32", shape=(1,), offsets=(0, 4), more=""):
    """The JSON of a tensor. Any text may stand for a shape or for offsets."""
    text = lambda value: value if isinstance(value, str) else json.dumps(list(value), separators=(",", ":"))
    return f'{{"dtype":"{dtype}","shape":{text(shape)},"data_offsets":{text(offsets)}{more}}}'


A = tensor()
ABCD = b"abcd"


def lengths():
    for size in range(9):
        raw(f"length: {size} zero bytes", bytes(size))
    raw("length: 7 bytes of 0xff", b"\xff" * 7)
    for name, claimed in {
        "0": 0, "1": 1, "one too many": 3, "ten too many": 12, "100 000 000": 10**8, "100 000 001": 10**8 + 1, "2^31": 2**31, "2^32": 2**32,
        "2^32 + 2": 2**32 + 2, "2^53": 2**53, "2^63 - 1": 2**63 - 1, "2^63": 2**63, "2^64 - 1": 2**64 - 1, "2^64 - 8": 2**64 - 8, "2^64 - 6": 2**64 - 6,
    }.items():  # fmt: skip
        file(f"length: {name} claimed, 2 there", "{}", claimed=claimed)
    file("length: one too few", '{"a":' + A + "}", ABCD, claimed=len(A) + 6)
    file("length: one too many, out of the data", '{"a":' + A + "}", ABCD, claimed=len(A) + 8)
    file("length: none of the data is left", '{"a":' + A + "}", ABCD, claimed=len(A) + 11)
    text = b"{}"
    raw("length: big-endian", struct.pack(">Q", len(text)) + text)


def texts():
    file("text: {}", "{}")
    for name, header in {
        "empty": "", "a space": " ", "{} then a space": "{} ", "{} then 6 spaces": "{}      ", "{} then every white space": "{} \t\r\n",
        "a space, then {}": " {}", "a line feed, then {}": "\n{}", "a tab, then {}": "\t{}", "a form feed, then {}": "\f{}", "{} then a form feed": "{}\f",
        "a byte order mark, then {}": "\ufeff{}", "{} then a byte order mark": "{}\ufeff", "a no-break space within": "{\u00a0}", "white space within": "{ \t\r\n }",
        "{} then a NUL": "{}\0", "a NUL, then {}": "\0{}", "{} twice": "{}{}", "{} then a letter": "{}x", "{} then }": "{}}", "{": "{", "}": "}", "[]": "[]",
        "null": "null", "true": "true", "0": "0", "a string": '"a"', "nothing but a comma": "{,}", "a comment": "{/**/}", "a line comment": "{}//",
        "single quotes": "{'a':" + A + "}", "no quotes": "{a:" + A + "}", "a comma at the end": '{"a":' + A + ",}", "two commas": '{"a":' + A + ',,"b":' + A + "}",
        "no comma": '{"a":' + A + ' "b":' + A + "}", "no colon": '{"a"' + A + "}", "two colons": '{"a"::' + A + "}", "an equals sign": '{"a"=' + A + "}",
        "a key alone": '{"a"}', "a key and a colon": '{"a":}', "no closing brace": '{"a":' + A, "no closing quote": '{"a', "a closing bracket": '{"a":' + A + "]",
    }.items():  # fmt: skip
        file(f"text: {name}", header, ABCD if '"dtype"' in header else b"")
    pretty = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, indent=2)
    file("text: white space everywhere", pretty.replace("\n", "\r\n\t"), ABCD)
    for depth in (3, 126, 127, 128, 129):
        file(f"nesting: {depth} arrays in a tensor's place", '{"a":' + "[" * depth + "]" * depth + "}")
        file(f"nesting: {depth} objects in a tensor's place", '{"a":' + '{"b":' * depth + "0" + "}" * depth + "}")
        file(f"nesting: {depth} arrays in an unknown field", '{"a":' + tensor(more=',"x":' + "[" * depth + "]" * depth) + "}", ABCD)
    file("nesting: 500 brackets never closed", "[" * 500)
    file("nesting: 200 braces never closed", '{"":' * 200)


def encodings():
    for name, part in {
        "0xff": b"\xff", "0x80 alone": b"\x80", "a cut sequence": b"\xe2\x82", "an overlong slash": b"\xc0\xaf", "an overlong NUL": b"\xc0\x80", "a surrogate": b"\xed\xa0\x80",
        "beyond U+10FFFF": b"\xf4\x90\x80\x80", "5 bytes": b"\xf8\x88\x80\x80\x80", "U+FFFF": "\uffff".encode(), "U+10FFFF": "\U0010ffff".encode(),
        "two letters": "ß漢".encode(), "a crab": "🦀".encode(), "DEL": b"\x7f", "U+0085": "\x85".encode(), "U+2028": "\u2028".encode(), "a byte order mark": "\ufeff".encode(),
    }.items():  # fmt: skip
        file(f"UTF-8 in a name: {name}", b'{"' + part + b'":' + A.encode() + b"}", ABCD)
    file("UTF-8: 0xff after the brace", b"{}\xff")
    file("UTF-8: UTF-16", "{}".encode("utf-16-le"))
    for code in (0, 1, 8, 9, 10, 13, 31, 127):
        file(f"name: the control character {code} as it is", b'{"a' + bytes([code]) + b'":' + A.encode() + b"}", ABCD)
    for name, text in {
        "nothing": "", "a space": " ", "all short escapes": '\\"\\\\\\/\\b\\f\\n\\r\\t', "\\u0000": "\\u0000", "\\u00e9": "\\u00e9", "a pair": "\\ud83e\\udd80",
        "half a pair": "\\ud83e", "the other half": "\\udd80", "halves swapped": "\\udd80\\ud83e", "half a pair, then a letter": "\\ud83ex", "half a pair, then \\n": "\\ud83e\\n",
        "\\x41": "\\x41", "\\u12": "\\u12", "\\u12g4": "\\u12g4", "\\U0041": "\\U0041", "\\'": "\\'", "a backslash": "\\", "\\a": "\\a", "\\0": "\\0", "capital hex": "\\u00E9",
        "__proto__": "__proto__", "constructor": "constructor", "prototype": "prototype", "toString": "toString", "hasOwnProperty": "hasOwnProperty", "a path": "../../a/b:0",
        "200 letters": "n" * 200, "a number": "0", "dtype": "dtype", "__metadata": "__metadata",
    }.items():  # fmt: skip
        file(f"name: {name}", '{"' + text + '":' + A + "}", ABCD)
    file("names: __proto__, constructor, a", '{"__proto__":%s,"constructor":%s,"a":%s}' % tuple(tensor(offsets=(4 * i, 4 * i + 4)) for i in range(3)), ABCD * 3)
    file("names: 12 tensors, last first", "{" + ",".join(f'"t{i}":' + tensor("U8", offsets=(i, i + 1)) for i in reversed(range(12))) + "}", bytes(range(12)))
    file("names: differ in case, and in normal form", '{"a":%s,"A":%s,"é":%s,"e\u0301":%s}' % tuple(tensor(offsets=(4 * i, 4 * i + 4)) for i in range(4)), ABCD * 4)


def duplicates():
    other = tensor(offsets=(4, 8))
    file("twice: a tensor, the same", '{"a":' + A + ',"a":' + A + "}", ABCD)
    file("twice: a tensor, the last one fits", '{"a":' + other + ',"a":' + A + "}", ABCD)
    file("twice: a tensor, the first one fits", '{"a":' + A + ',"a":' + other + "}", ABCD)
    file("twice: a tensor, they cover the data together", '{"a":' + A + ',"a":' + other + "}", ABCD * 2)
    file("twice: a tensor, once by an escape", '{"a":' + A + ',"\\u0061":' + A + "}", ABCD)
    file("twice: __metadata__", '{"__metadata__":{},"__metadata__":{}}')
    file("twice: __metadata__, once by an escape", '{"__metadata__":{"a":"b"},"\\u005f_metadata__":{}}')
    file("twice: a key of __metadata__", '{"__metadata__":{"a":"b","a":"c"}}')
    file("twice: __proto__ in __metadata__", '{"__metadata__":{"__proto__":"b","__proto__":"c"}}')
    for field, value in {"dtype": '"F32"', "shape": "[1]", "data_offsets": "[0,4]"}.items():
        file(f"twice: {field}", '{"a":' + tensor(more=f',"{field}":{value}') + "}", ABCD)
    file("twice: an unknown field", '{"a":' + tensor(more=',"x":1,"x":1') + "}", ABCD)


def fields():
    for name, body in {
        "none": "{}", "no dtype": '{"shape":[1],"data_offsets":[0,4]}', "no shape": '{"dtype":"F32","data_offsets":[0,4]}', "no data_offsets": '{"dtype":"F32","shape":[1]}',
        "another order": '{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}', "a name by an escape": '{"\\u0064type":"F32","shape":[1],"data_offsets":[0,4]}',
        "an array in their order": '["F32",[1],[0,4]]', "an array that is too short": '["F32",[1]]', "an array that is too long": '["F32",[1],[0,4],0]',
        "an unknown one": tensor(more=',"x":1'), "an unknown one, __proto__": tensor(more=',"__proto__":{"polluted":"yes"}'), "an unknown one, first": '{"x":[{}],' + A[1:],
        "an unknown one that is no JSON": tensor(more=',"x":1.'), "capitals": '{"Dtype":"F32","Shape":[1],"Data_offsets":[0,4]}', "null in a tensor's place": "null",
        "a string in a tensor's place": '"F32"', "a number in a tensor's place": "1", "true in a tensor's place": "true", "[] in a tensor's place": "[]",
        "dtype null": '{"dtype":null,"shape":[1],"data_offsets":[0,4]}', "dtype 1": '{"dtype":1,"shape":[1],"data_offsets":[0,4]}', "dtype []": '{"dtype":[],"shape":[1],"data_offsets":[0,4]}',
        "dtype as an object": '{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}', "shape null": tensor(shape="null"), "shape 1": tensor(shape="1"),
        "shape a string": tensor(shape='"[1]"'), "shape an object": tensor(shape='{"0":1}'), "data_offsets null": tensor(offsets="null"), "data_offsets 4": tensor(offsets="4"),
        "data_offsets a string": tensor(offsets='"04"'), "data_offsets an object": tensor(offsets='{"0":0,"1":4}'), "data_offsets []": tensor(offsets=()),
        "data_offsets [4]": tensor(offsets=(4,)), "data_offsets [0, 4, 4]": tensor(offsets=(0, 4, 4)), "data_offsets [0, [4]]": tensor(offsets="[0,[4]]"),
    }.items():  # fmt: skip
        file(f"fields: {name}", '{"a":' + body + "}", ABCD)
    for dtype in ["f32", "F32 ", " F32", "", "float32", "torch.float32", "F33", "F128", "I128", "C128", "F8", "F6", "U4", "BOOL8", "__proto__", "constructor", "\\u004632", "F32\\u0000"]:
        file(f"dtype: {dtype!r}", '{"a":' + tensor(dtype) + "}", ABCD)
    for dtype, bits in BITS.items():
        for count in (0, 3, 8):
            size = bits * count // 8
            file(f"dtype: {dtype}, {count} values", '{"a":' + tensor(dtype, [count], [0, size]) + "}", bytes(i % 2 for i in range(size)))
        file(f"dtype: {dtype}, a scalar", '{"a":' + tensor(dtype, [], [0, max(1, bits // 8)]) + "}", bytes(max(1, bits // 8)))
    file("dtype: BOOL, other bytes than 0 and 1", '{"a":' + tensor("BOOL", [4], [0, 4]) + "}", b"\x00\x01\x02\xff")
    file("dtype: F32, NaN with a payload, -0 and infinities", '{"a":' + tensor(shape=[4], offsets=(0, 16)) + "}", bytes.fromhex("010080ff00000080 0000807f 0000a07f"))


def numbers():
    for number in [
        "-1", "-0", "+1", "01", "00", "1.0", "1.", ".1", "1e0", "1E0", "1e1", "0x1", "1_000", "1n", "Infinity", "NaN", '"1"', "null", "true", "[1]", "{}", "", "1 1", "\u0661",
        "4294967296", "9007199254740991", "9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615",
        "18446744073709551616", "36893488147419103232", "1" + "0" * 30, "1e400", "0.0", "0e0",
    ]:  # fmt: skip
        file(f"number in a shape: {number}", '{"a":' + tensor(shape=f"[{number}]") + "}", ABCD)
        file(f"number in a shape, beside 0: {number}", '{"a":' + tensor(shape=f"[0,{number}]", offsets=(0, 0)) + "}")
        file(f"number as the end: {number}", '{"a":' + tensor(offsets=f"[0,{number}]") + "}", ABCD)
        file(f"number as the start: {number}", '{"a":' + tensor("U8", offsets=f"[{number},4]") + "}", ABCD)
    for shape in (
        [2**32, 2**32], [2**32, 2**32, 0], [0, 2**32, 2**32], [2**53, 0], [0, 2**53], [2**62], [2**62, 4], [2**61, 2], [2**63, 2], [2**64 - 1, 2**64 - 1], [2**26, 2**26], [2**27, 2**26, 0],
        [2**16, 2**16, 2**16, 2**16], [2**16, 2**16, 2**16, 2**16, 0], [2**53 - 1, 2**11], [3, 6148914691236517206],
    ):  # fmt: skip
        for offsets in ((0, 0), (0, 4)):
            file(f"product: F32 {shape}, {offsets[1]} bytes", '{"a":' + tensor(shape=shape, offsets=offsets) + "}", ABCD[: offsets[1]])
    file("product: F64 [2^61], 0 bytes", '{"a":' + tensor("F64", [2**61], [0, 0]) + "}")
    file("product: F64 [2^61 + 1], 8 bytes", '{"a":' + tensor("F64", [2**61 + 1], [0, 8]) + "}", bytes(8))
    for dims in (8, 63, 64, 65, 200):
        file(f"dimensions: {dims}, all 1", '{"a":' + tensor(shape=[1] * dims) + "}", ABCD)
    file("dimensions: 64 times 2", '{"a":' + tensor(shape=[2] * 64) + "}", ABCD)


def layouts():
    def layout(name, spans, size, shapes=None):
        """U8 tensors a, b, c ... at these spans."""
        entries = [
            f'"{chr(97 + i)}":' + tensor("U8", [end - start] if shapes is None else shapes[i], [start, end])
            for i, (start, end) in enumerate(spans)
        ]
        file(f"layout: {name}", "{" + ",".join(entries) + "}", bytes(range(size)))

    layout("two, one after the other", [(0, 2), (2, 5)], 5)
    layout("two, the later one first", [(2, 5), (0, 2)], 5)
    layout("three in a mess", [(3, 4), (0, 2), (2, 3)], 4)
    layout("one byte of both", [(0, 3), (2, 5)], 5)
    layout("the same bytes", [(0, 4), (0, 4)], 4)
    layout("one within the other", [(0, 4), (1, 3)], 4)
    layout("a gap of one byte", [(0, 2), (3, 5)], 5)
    layout("a gap at the start", [(1, 3)], 3)
    layout("a gap at the end", [(0, 2)], 3)
    layout("a byte is missing", [(0, 4)], 3)
    layout("all bytes are missing", [(0, 4)], 0)
    layout("data that nobody has", [], 1)
    layout("padding after the data", [(0, 4)], 8)
    layout("beyond the data", [(0, 4), (4, 8)], 4)
    layout("the end before the start", [(4, 0)], 4, [[0]])
    layout("empty", [(0, 0)], 0)
    layout("empty, at 1 of 0 bytes", [(1, 1)], 0)
    layout("empty, in the middle of another", [(0, 4), (2, 2)], 4)
    layout("empty, between two", [(0, 2), (2, 2), (2, 4)], 4)
    layout("empty, at the end, named first", [(4, 4), (0, 4)], 4)
    layout("empty, beyond the end", [(0, 4), (5, 5)], 4)
    layout("empty, three at one place", [(0, 0), (0, 0), (0, 0)], 0)
    layout("too small for its shape", [(0, 3)], 3, [[4]])
    layout("too large for its shape", [(0, 5)], 5, [[4]])
    layout("a scalar", [(0, 1)], 1, [[]])
    layout("a scalar without bytes", [(0, 0)], 0, [[]])
    layout("[2, 3]", [(0, 6)], 6, [[2, 3]])
    layout("[0, 3]", [(0, 0)], 0, [[0, 3]])
    layout("[3, 0], with bytes", [(0, 3)], 3, [[3, 0]])
    layout("[1, 1, 1, 1]", [(0, 1)], 1, [[1, 1, 1, 1]])
    file("layout: F32 that is not aligned", '{"a":%s,"b":%s}' % (tensor("U8", [1], [0, 1]), tensor("F32", [1], [1, 5])), bytes(range(5)))
    file("layout: F64 after a header of odd length", '{"a":' + tensor("F64", [1], [0, 8]) + "}   ", bytes(range(8)))


def metadata():
    for name, value in {
        "{}": "{}", "a string": '{"format":"pt"}', "many": '{"a":"1","b":"2","":""}', "escapes": '{"\\u0061\\n":"\\ud83e\\udd80"}', "null": "null", "a string itself": '"x"', "[]": "[]",
        "[[]]": "[[]]", "a list of pairs": '[["a","b"]]', "1": "1", "true": "true", "a number": '{"a":1}', "a null": '{"a":null}', "true within": '{"a":true}', "a list": '{"a":["b"]}',
        "an object": '{"a":{"b":"c"}}', "half a pair": '{"a":"\\ud83e"}', "__proto__": '{"__proto__":"x"}', "__proto__ an object": '{"__proto__":{"polluted":"yes"}}',
        "constructor": '{"constructor":"x"}', "a comma at the end": '{"a":"b",}', "a tensor's fields": '{"dtype":"F32","shape":"[1]"}', "a tensor": A, "a line feed": '{"a":"\n"}',
        "JSON in a string": json.dumps({"linrec": json.dumps({"architecture": "lrnnx/lru"})}),
    }.items():  # fmt: skip
        file(f"metadata: {name}", '{"__metadata__":' + value + "}", ABCD if value == A else b"")
    both = '"__metadata__":{"format":"np"}'
    file("metadata: before a tensor", "{" + both + ',"a":' + A + "}", ABCD)
    file("metadata: after a tensor", '{"a":' + A + "," + both + "}", ABCD)
    file("metadata: its name by an escape", '{"\\u005f_metadata__":{"a":"b"}}')
    file("metadata: __METADATA__", '{"__METADATA__":{"a":"b"}}')
    file("metadata: metadata", '{"metadata":{"a":"b"}}')


def mutations():
    """A good file with one or two things changed at random; the same changes every time."""
    random_ = random.Random(2303.06349)
    header = '{"__metadata__":{"format":"pt"},"a":%s,"b":%s}' % (tensor("F32", [2, 1], [0, 8]), tensor("U8", [3], [8, 11]))
    good = struct.pack("<Q", len(header)) + header.encode() + bytes(range(11))
    raw("mutation: none", good)
    pieces = [b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"0", b"9", b"-", b".", b"e", b"\\", b"\x00", b"\xff", b'"a"', b"null", b"[0,8]"]
    for i in range(MUTATIONS):
        data = bytearray(good)
        what = []
        for _ in range(random_.choice((1, 1, 2))):
            kind = random_.choice(("set", "set", "insert", "delete", "repeat", "cut"))
            at = random_.randrange(8 if random_.random() < 0.9 else 0, len(data))
            piece = random_.choice(pieces)
            if kind == "set":
                data[at : at + len(piece)] = piece
            elif kind == "insert":
                data[at:at] = piece
            elif kind == "delete":
                del data[at : at + random_.randrange(1, 6)]
            elif kind == "repeat":
                data[at:at] = data[at : at + random_.randrange(1, 40)]
            else:
                del data[at:]
            what.append(f"{kind} at {at}")
        if random_.random() < 0.8 and len(data) >= 8:  # the length fits again, so that the header is what counts
            data[:8] = struct.pack("<Q", max(0, len(header) + len(data) - len(good)))
        raw(f"mutation {i}: {', '.join(what)}", bytes(data))


def verdict_of(data, path):
    """What deserialize gives, and safe_open, which reads a file: tensors and metadata, or the error."""
    try:
        found = {
            name: [entry["dtype"], entry["shape"], base64.b64encode(entry["data"]).decode()]
            for name, entry in sorted(deserialize(data), key=lambda item: item[0])
        }
    except Exception as error:
        found = error
    path.write_bytes(data)
    try:
        with safe_open(path, "numpy") as opened:
            keys, read = sorted(opened.keys()), opened.metadata()
    except Exception as error:
        opened_error = message(error)
        assert isinstance(found, Exception), f"safe_open alone refuses: {opened_error}"
        return {"refused": message(found)} | ({} if opened_error == message(found) else {"safe_open": opened_error})
    assert not isinstance(found, Exception), f"deserialize alone refuses: {found}"
    assert keys == sorted(found)
    return {"tensors": found, "metadata": dict(sorted((read or {}).items()))}


def message(error):
    """The error's kind and what follows it, cut short."""
    assert type(error).__name__ == "SafetensorError", repr(error)
    text = str(error).removeprefix("Error while deserializing: ").replace("invalid JSON in header", "JSON")
    text = re.sub(" at line 1 column .*", "", text)
    return re.sub("tensor `.*`", "a tensor", text)[:60]  # which of two it names depends on a hash seeded anew each time


def main():
    for make in (lengths, texts, encodings, duplicates, fields, numbers, layouts, metadata, mutations):
        make()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in cases.items():
            verdict = verdict_of(data, Path(folder) / "case.safetensors")
            lines.append(json.dumps({"name": name, "file": base64.b64encode(data).decode(), **verdict}, separators=(",", ":")))
    accepted = sum('"tensors":' in line for line in lines)
    head = json.dumps({"library": f"safetensors {safetensors.__version__} (Python)"})[1:-1]
    text = "{" + head + ',\n"cases":[\n' + ",\n".join(lines) + "\n]}\n"
    print(f"safetensors {safetensors.__version__}: {len(lines)} files, {accepted} accepted, {len(text)} bytes")
    if "--check" not in sys.argv:
        FIXTURE.write_text(text)
    elif FIXTURE.read_text() != text:
        sys.exit(f"These are not the verdicts of {FIXTURE.name}: run it without --check, and look at what changed.")


main()
