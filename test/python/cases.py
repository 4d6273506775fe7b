"""What the scripts of one framework share: the guide's own exporters, and the files by which they talk with run.mjs.

Each script is run twice: `with_torch.py make FOLDER` builds networks, exports them and computes their outputs in float64; run.mjs
has linrec read, run and write them; `with_torch.py check FOLDER` takes back what linrec wrote and says what differs.
"""

import json
import re
import sys
from pathlib import Path

import numpy

ROOT = Path(__file__).parent.parent.parent


def exporter(title):
    """`export` of the section with this title of docs/from-python.md, as it stands there."""
    guide = (ROOT / "docs" / "from-python.md").read_text()
    section = re.search(rf"^## {re.escape(title)}.*?```python\n(.*?)```", guide, re.S | re.M)
    namespace = {}
    exec(section[1], namespace)
    return namespace["export"]


def floats(generator, *shape):
    return generator.standard_normal(shape).astype(numpy.float32)


def plain_error(lru, x, y):
    """Of a plain sequential recurrence in float32 over x [batch, seqLen, dModel], against y: what linear outputs are measured by."""
    p = {name: numpy.asarray(value, numpy.float32) for name, value in lru.items()}
    eigenvalues = numpy.exp(-numpy.exp(p["nu_log"].astype(float)) + 1j * numpy.exp(p["theta_log"].astype(float)))
    B = numpy.exp(p["gamma_log"])[:, None] * (p["B_re"] + 1j * p["B_im"])
    C = p["C_re"] + 1j * p["C_im"]
    single = lambda value: value.astype(numpy.complex64)
    h = numpy.zeros((x.shape[0], B.shape[0]), numpy.complex64)
    worst = 0.0
    for t in range(x.shape[1]):
        h = single(eigenvalues) * h + single(x[:, t]) @ single(B).T
        worst = max(worst, abs((h @ single(C).T).real + p["D"] * x[:, t] - y[:, t]).max())
    return worst / abs(y).max()


class Cases:
    """Writes NAME.x and NAME.y, raw numbers, and at last cases.json."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.list = []

    def path(self, name, ending="safetensors"):
        return self.folder / f"{name}.{ending}"

    def add(self, name, x, y, own, **facts):
        """x float32 or int32 ids; y its output in float64; own what the framework itself makes of x in float32."""
        assert x.dtype in (numpy.float32, numpy.int32) and y.dtype == numpy.float64
        self.path(name, "x").write_bytes(numpy.ascontiguousarray(x).tobytes())
        self.path(name, "y").write_bytes(numpy.ascontiguousarray(y).tobytes())
        error = float(abs(numpy.asarray(own, float) - y).max() / abs(y).max())
        self.list.append({"name": name, "ids": x.dtype == numpy.int32, "batch": len(x), "ownError": error, **facts})

    def finish(self, versions):
        (self.folder / "cases.json").write_text(json.dumps({"versions": versions, "cases": self.list}))


def differences(before, after):
    """Between two {name: array}: names, dtypes, shapes and bits. [] where there are none."""
    found = [f"{name} is only in one of them" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        a, b = numpy.ascontiguousarray(before[name]), numpy.ascontiguousarray(after[name])
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            found.append(f"{name} was {a.dtype} {a.shape} and is {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            found.append(f"{name} has other bits")
    return found


def main(networks, make, check):
    """`make(cases)`, or for every network its `check(folder, name)`, whose differences go to stdout as JSON."""
    what, folder = sys.argv[1:]
    if what == "make":
        make(Cases(folder))
    else:
        print(json.dumps({name: check(Path(folder), name) for name in networks}))
