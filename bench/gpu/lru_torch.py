"""The LRU's forward (arXiv 2303.06349, equations 1, 2 and 7) in PyTorch on CUDA, for bench/gpu.

Reads [{"batch", "seqLen", "dModel", "dState"}] as JSON from stdin; prints {"device", "torch", "rows": [...]} as JSON. Each row
has, for each way to compute the recurrence, the median ms of the computation alone and of it with x copied to the GPU and
y copied back, or why it could not be run. Two ways: by FFT, as a convolution with lambda^t, which is what lrnnx's layer does;
and by doubling (a Hillis-Steele scan), which needs no powers of lambda longer than the sequence.
"""

import json
import statistics
import sys
import time

try:
    import torch
except ImportError:
    print(json.dumps({"missing": "python3 has no torch"}))
    sys.exit()
if not torch.cuda.is_available():
    print(json.dumps({"missing": f"torch {torch.__version__} has no CUDA device"}))
    sys.exit()

SECONDS = 2.0


class Lru:
    """Parameters on the ring 0.9 <= |lambda| <= 0.999, made ready once: lambda and B_norm are not part of what is timed."""

    def __init__(self, d_model, d_state, dtype=torch.float32):
        generator = torch.Generator().manual_seed(1)
        uniform = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
        normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
        radius = torch.sqrt(uniform(d_state) * (0.999**2 - 0.9**2) + 0.9**2)
        self.log_lambda = torch.complex(torch.log(radius), 2 * torch.pi * uniform(d_state))
        gamma = torch.sqrt(1 - radius**2)
        B = torch.complex(normal(d_state, d_model), normal(d_state, d_model)) / (2 * d_model) ** 0.5
        C = torch.complex(normal(d_model, d_state), normal(d_model, d_state)) / d_state**0.5
        half = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.B = (gamma[:, None] * B).T.to(half).cuda()
        self.C = C.T.to(half).cuda()
        self.D = normal(d_model).to(dtype).cuda()
        self.complex = half

    def output(self, h, u):
        return (h @ self.C).real + self.D * u

    def by_fft(self, u):
        length = u.shape[1]
        bu = u.to(self.complex) @ self.B
        t = torch.arange(length, dtype=torch.float64)
        powers = torch.exp(t[:, None] * self.log_lambda).to(self.complex).cuda() if self.kernel is None else self.kernel
        self.kernel = powers
        h = torch.fft.ifft(torch.fft.fft(bu, 2 * length, dim=1) * torch.fft.fft(powers, 2 * length, dim=0), dim=1)
        return self.output(h[:, :length], u)

    def by_doubling(self, u):
        h = u.to(self.complex) @ self.B
        power = torch.exp(self.log_lambda)
        step = 1
        while step < u.shape[1]:
            shifted = h[:, :-step] * power.to(self.complex).cuda()
            h = torch.cat([h[:, :step], h[:, step:] + shifted], dim=1)
            power = power * power
            step *= 2
        return self.output(h, u)

    def one_by_one(self, u):
        h = torch.zeros(u.shape[0], self.B.shape[1], dtype=self.complex, device=u.device)
        eigenvalues = torch.exp(self.log_lambda).to(self.complex).cuda()
        outputs = []
        for t in range(u.shape[1]):
            h = eigenvalues * h + u[:, t].to(self.complex) @ self.B
            outputs.append(self.output(h, u[:, t]))
        return torch.stack(outputs, dim=1)

    kernel = None


def median_ms(run):
    run()
    run()
    times = []
    start = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < SECONDS and len(times) < 200):
        torch.cuda.synchronize()
        before = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


def check(way, d_model, d_state):
    """Largest error over largest |y| on 300 tokens, against the recurrence in float64."""
    u = torch.rand(2, 300, d_model, generator=torch.Generator().manual_seed(2)) * 2 - 1
    y = getattr(Lru(d_model, d_state), way)(u.cuda()).double()
    expected = Lru(d_model, d_state, torch.float64).one_by_one(u.double().cuda())
    return ((y - expected).abs().max() / expected.abs().max()).item()


def measure(way, batch, length, d_model, d_state):
    error = check(way, d_model, d_state)
    if not error < 1e-3:
        return {"way": way, "failed": f"it is wrong: its error is {error:.1e}"}
    try:
        lru = Lru(d_model, d_state)
        x = torch.rand(batch, length, d_model) * 2 - 1
        resident = x.cuda()
        run = getattr(lru, way)
        compute = median_ms(lambda: run(resident))
        copies = median_ms(lambda: run(x.cuda()).cpu())
        return {"way": way, "ms": compute, "msWithCopies": copies, "error": error}
    except torch.cuda.OutOfMemoryError:
        return {"way": way, "failed": "out of GPU memory"}
    finally:
        torch.cuda.empty_cache()


with torch.inference_mode():
    rows = []
    for shape in json.load(sys.stdin):
        sizes = [shape[name] for name in ("batch", "seqLen", "dModel", "dState")]
        rows.append([measure(way, *sizes) for way in ("by_fft", "by_doubling")])
    device = torch.cuda.get_device_name()
    print(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}))
