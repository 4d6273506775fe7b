"""The LRU's forward (arXiv 2303.06349, equations 1, 2 and 7) in PyTorch on CPU threads, for torch.mjs, which talks to it in lines of JSON.

Files hold raw float32: of parameters nuLog, thetaLog, gammaLog, BRe, BIm, CRe, CIm, D, one after the other; of x [batch, seqLen, dModel].
"""

import json
import sys
import time

import torch

PARAMETERS = "nu_log theta_log gamma_log B_re B_im C_re C_im D".split()


class Lru:
    def __init__(self, path, H, N):
        sizes = [N, N, N, N * H, N * H, H * N, H * N, H]
        parts = torch.from_file(path, size=sum(sizes)).clone().split(sizes)
        self.p = dict(zip(PARAMETERS, parts))
        self.B = torch.complex(self.p["B_re"], self.p["B_im"]).view(N, H)
        self.C = torch.complex(self.p["C_re"], self.p["C_im"]).view(H, N)
        self.made = {}

    def eigenvalues(self):
        return torch.exp(-torch.exp(self.p["nu_log"]) + 1j * torch.exp(self.p["theta_log"]))

    def once(self, name, make):
        """A constant, made by the first run and kept."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def normed(self):
        return self.B * torch.exp(self.p["gamma_log"])[:, None]

    def lrnnx(self, x):
        """What lrnnx's layer does in each forward: powers of lambda, then a convolution by FFT, of as many channels as are fewer."""
        batch, length, H = x.shape
        N = len(self.B)
        assert 2 / H <= 1 / batch + 1 / N, "lrnnx would convolve with a kernel [length, H, H]: no shape of the benchmark is like this"
        K = self.eigenvalues()[:, None] ** torch.arange(length, dtype=torch.float32)
        B = self.normed()
        if N <= H:
            projected = x.to(B.dtype) @ B.T
            product = torch.fft.fft(projected, 2 * length, dim=1) * torch.fft.fft(K, 2 * length, dim=1).T
            y = (torch.fft.ifft(product, dim=1)[:, :length] @ self.C.T).real
        else:
            product = (torch.fft.fft(x, 2 * length, dim=1) @ B.T) * torch.fft.fft(K, 2 * length, dim=1).T
            y = torch.fft.ifft(product @ self.C.T, dim=1)[:, :length].real
        return y + x * self.p["D"]

    def fft(self, x):
        """The same, always over the states, with what does not depend on x made once."""
        length = x.shape[1]
        spectrum = lambda: torch.fft.fft(self.eigenvalues()[:, None] ** torch.arange(length), 2 * length, dim=1).T.contiguous()
        K, B = self.once("K", spectrum), self.once("B", self.normed)
        product = torch.fft.fft(x.to(B.dtype) @ B.T, 2 * length, dim=1).mul_(K)
        return self.output(torch.fft.ifft(product, dim=1)[:, :length], x)

    def doubling(self, x):
        """A Hillis-Steele scan: log2(length) passes over the states."""
        B = self.once("B", self.normed)
        h, step, power = x.to(B.dtype) @ B.T, 1, self.eigenvalues()
        while step < x.shape[1]:
            h = torch.cat([h[:, :step], torch.addcmul(h[:, step:], h[:, :-step], power)], dim=1)
            power, step = power * power, 2 * step
        return self.output(h, x)

    def output(self, h, x):
        return (h @ self.C.T).real + self.p["D"] * x


def prepare(request):
    global run
    torch.set_num_threads(request["threads"])
    batch, length, H, N = (request["shape"][name] for name in ("batch", "seqLen", "dModel", "dState"))
    x = torch.from_file(request["x"], size=batch * length * H).clone().view(batch, length, H)
    lru = Lru(request["parameters"], H, N)
    run = lambda: getattr(lru, request["way"])(x)


run = y = None
print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        try:
            if request["do"] == "prepare":
                prepare(request)
            elif request["do"] == "run":
                y = None  # its memory is free before the next is made
                before = time.perf_counter()
                y = run()
                answer["ms"] = 1000 * (time.perf_counter() - before)
            else:
                torch.from_file(request["y"], shared=True, size=y.numel()).copy_(y.flatten())
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)
