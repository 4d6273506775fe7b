"""PyTorch: modules with lrnnx's parameter names, orientation and arithmetic (written anew after its descriptions; see cases.py)."""

import math

import numpy
import safetensors
import torch
from cases import exporter, floats, main, plain_error
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

export = exporter("PyTorch (lrnnx)")


class Lru(nn.Module):
    def __init__(self, d_model, d_state, r_min=0.5, r_max=0.999):
        super().__init__()
        radius = torch.sqrt(torch.rand(d_state) * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(torch.log(-torch.log(radius)))
        self.theta_log = nn.Parameter(torch.log(2 * math.pi * torch.rand(d_state)))
        self.B_re, self.B_im = (nn.Parameter(torch.randn(d_state, d_model) / (2 * d_model) ** 0.5) for _ in "ri")
        self.C_re, self.C_im = (nn.Parameter(torch.randn(d_model, d_state) / d_state**0.5) for _ in "ri")
        self.D = nn.Parameter(torch.randn(d_model))
        self.gamma_log = nn.Parameter(torch.log(torch.sqrt(1 - radius**2)))

    def forward(self, x):
        """x [batch, length, d_model]; a convolution with lambda^t by FFT."""
        length = x.shape[1]
        eigenvalues = torch.exp(torch.complex(-torch.exp(self.nu_log), torch.exp(self.theta_log)))
        kernel = eigenvalues ** torch.arange(length, dtype=x.dtype)[:, None]
        bu = (torch.exp(self.gamma_log)[:, None] * torch.complex(self.B_re, self.B_im) @ x.mT.to(kernel.dtype)).mT
        h = torch.fft.ifft(torch.fft.fft(bu, 2 * length, dim=1) * torch.fft.fft(kernel, 2 * length, dim=0), dim=1)[:, :length]
        return (h @ torch.complex(self.C_re, self.C_im).mT).real + x * self.D


class ClassifierBlock(nn.Module):
    def __init__(self, width, d_state, outputs, intermediate, factor):
        super().__init__()
        self.lrnn, self.norm = Lru(width, d_state), nn.LayerNorm(width)
        self.intermediate, self.factor = intermediate, factor
        if outputs:
            self.output_proj = nn.Linear(width, outputs)

    def forward(self, x):
        x = self.norm(self.lrnn(x) + x)
        if self.intermediate == "stride":
            return x[:, :: self.factor]
        pool = {"none": lambda x, _: x, "mean": F.avg_pool1d, "max": F.max_pool1d}[self.intermediate]
        return pool(x.mT, self.factor).mT


class Classifier(nn.Module):
    def __init__(self, width, d_state, layers, outputs, features=0, vocabulary=0, embedding=0, pooling="last", intermediate="none", factor=2):
        super().__init__()
        if vocabulary:
            self.embedding = nn.Module()
            self.embedding.token_embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
            self.embed_proj = nn.Linear(embedding, width) if embedding != width else nn.Identity()
        else:
            self.input_proj = nn.Linear(features, width)
        block = lambda head: ClassifierBlock(width, d_state, head, intermediate, factor)
        self.blocks = nn.ModuleList(block(0) for _ in range(layers - 1))
        self.final_block = block(outputs)
        self.pooling = pooling

    def forward(self, x):
        x = self.embed_proj(self.embedding.token_embedding(x)) if hasattr(self, "embedding") else self.input_proj(x)
        for block in [*self.blocks, self.final_block]:
            x = block(x)
        pooled = {"last": lambda: x[:, -1], "mean": lambda: x.mean(1), "max": lambda: x.max(1)[0]}[self.pooling]()
        return self.final_block.output_proj(pooled)


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        a, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(a * F.silu(gate))


class LanguageModel(nn.Module):
    def __init__(self, width, d_state, layers, vocabulary, hidden=0, rms=True, tied=True):
        super().__init__()
        norm = lambda: nn.RMSNorm(width, eps=1e-5) if rms else nn.LayerNorm(width)
        self.backbone = nn.Module()
        self.backbone.embedding = nn.Embedding(vocabulary, width)
        self.backbone.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.Module()
            layer.norm, layer.mixer = norm(), Lru(width, d_state)
            if hidden:
                layer.norm2, layer.mlp = norm(), Mlp(width, hidden)
            self.backbone.layers.append(layer)
        self.backbone.norm_f = norm()
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(self, ids):
        r = self.backbone.embedding(ids)
        for layer in self.backbone.layers:
            r = r + layer.mixer(layer.norm(r))
            if hasattr(layer, "mlp"):
                r = r + layer.mlp(layer.norm2(r))
        return self.lm_head(self.backbone.norm_f(r))


class UnetBlock(nn.Sequential):
    def __init__(self, width, act=True):
        named = lambda name, child: nn.ModuleDict({name: child})
        norm = [named("norm", nn.LayerNorm(width))] if act and width > 1 else []
        super().__init__(named("lru_layer", Lru(width, width)), *norm)
        self.act = act

    def forward(self, x):
        x = self[0]["lru_layer"](x)
        x = self[1]["norm"](x) if len(self) > 1 else x
        return F.silu(x) if self.act else x


class Unet(nn.Module):
    def __init__(self, channels, outputs, factors, causal=True):
        super().__init__()
        width, self.causal, self.stride = channels, causal, math.prod(factors)
        self.down_ssms, self.up_ssms = nn.ModuleList(), nn.ModuleList()
        for factor in factors:
            conv = nn.ModuleDict({"conv": nn.Conv1d(width, 2 * width, factor, factor)})
            self.down_ssms.append(nn.ModuleList([UnetBlock(width), conv]))
            width *= 2
        self.hid_ssms = nn.ModuleList([UnetBlock(width), UnetBlock(width)])
        for factor in reversed(factors):
            width //= 2
            deconv = nn.ModuleDict({"deconv": nn.ConvTranspose1d(2 * width, width, factor, factor)})
            self.up_ssms.append(nn.ModuleList([deconv, UnetBlock(width)]))
        self.last_ssms = nn.ModuleList([UnetBlock(channels), UnetBlock(channels, act=False)])
        if outputs != channels:
            self.final_proj = nn.Conv1d(channels, outputs, 1, bias=False)

    def forward(self, x):
        """x [batch, length, channels], as everywhere in linrec"""
        length, skips = x.shape[1], []
        x = F.pad(x, (0, 0, 0, -length % self.stride))
        for block, down in self.down_ssms:
            skips.append(x)
            x = down["conv"](block(x).mT).mT
        for block in self.hid_ssms:
            x = block(x)
        for up, block in self.up_ssms:
            x = up["deconv"](x.mT).mT
            if self.causal:
                x = F.pad(x, (0, 0, 1, -1))
            x = block(x + skips.pop())
        for block in self.last_ssms:
            x = block(x)
        x = self.final_proj(x.mT).mT if hasattr(self, "final_proj") else x
        return x[:, :length]


LRU, CLASSIFIER, LANGUAGE, UNET = "lrnnx/lru", "lrnnx/classifier", "lrnnx/language-model", "lrnnx/lru-unet"

# name -> how to build it, its dtype, what the guide's exporter is told, the input's shape (ids below a bound, where it has one)
networks = {
    "lru": (lambda: Lru(5, 7), torch.float32, (LRU, {}), (3, 300, 5), None),
    "lru, float64": (lambda: Lru(4, 8), torch.float64, (LRU, {}), (2, 100, 4), None),
    "lru, float16": (lambda: Lru(4, 8, 0.5, 0.9), torch.float16, (LRU, {}), (2, 100, 4), None),
    "lru, bfloat16": (lambda: Lru(4, 8, 0.5, 0.9), torch.bfloat16, (LRU, {}), (2, 100, 4), None),
    "lru, long memory": (lambda: Lru(16, 16, 0.999, 0.99999), torch.float32, (LRU, {}), (1, 4096, 16), None),
    "classifier": (lambda: Classifier(8, 6, 2, 3, features=4), torch.float32, (CLASSIFIER, {}), (3, 30, 4), None),
    "classifier, pooling": (
        lambda: Classifier(8, 6, 3, 5, features=2, pooling="mean", intermediate="max", factor=2), torch.float32,
        (CLASSIFIER, {"pooling": "mean", "intermediatePooling": "max", "poolingFactor": 2}), (2, 48, 2), None,
    ),
    "classifier, tokens": (
        lambda: Classifier(10, 7, 2, 4, vocabulary=20, embedding=6, pooling="max", intermediate="stride", factor=3), torch.float32,
        (CLASSIFIER, {"pooling": "max", "intermediatePooling": "stride", "poolingFactor": 3}), (4, 25), 20,
    ),
    "language model, tied": (lambda: LanguageModel(8, 6, 2, 16, hidden=128), torch.float32, (LANGUAGE, {}), (2, 20), 16),
    "language model, its own head": (lambda: LanguageModel(10, 14, 3, 24, rms=False, tied=False), torch.float32, (LANGUAGE, {}), (2, 20), 24),
    # Not two channels: LayerNorm over so few enlarges rounding (a hundred times and more) where they nearly tie, here and there alike.
    "U-Net": (lambda: Unet(4, 3, [2, 3]), torch.float32, (UNET, {}), (2, 50, 4), None),
    "U-Net, not causal, one channel": (lambda: Unet(1, 1, [4, 2], causal=False), torch.float32, (UNET, {"causal": False}), (2, 64, 1), None),
}  # fmt: skip


def build(name, seed):
    torch.manual_seed(seed)
    make, dtype, *_ = networks[name]
    module = make()
    for key, value in module.state_dict().items():
        if "norm" in key:  # ones and zeros would hide much
            value += 0.1 * torch.randn_like(value)
    return module.to(dtype).eval()


def single(module, name):
    """Its parameters as linrec has them: rounded to float32."""
    copy = build(name, 0).float()
    copy.load_state_dict({key: value.float() for key, value in module.state_dict().items()})
    return copy


def make(cases):
    for name, (_, _, (architecture, options), shape, bound) in networks.items():
        module = build(name, 1)
        torch.save(module.state_dict(), cases.path(name, "pt"))
        export(module, cases.path(name), architecture, **options)
        generator = numpy.random.default_rng(2)
        x = generator.integers(0, bound, shape, dtype=numpy.int32) if bound else floats(generator, *shape)
        with torch.inference_mode():
            own = single(module, name)(torch.from_numpy(x)).numpy()
            y = single(module, name).double()(torch.from_numpy(x if bound else x.astype(float))).numpy()
        facts = {"plain": plain_error({key: value.float() for key, value in module.state_dict().items()}, x, y)} if architecture == LRU else {}
        cases.add(name, x, y, own, architecture=architecture, **facts)
    cases.finish({"torch": torch.__version__, "safetensors": safetensors.__version__})


def check(folder, name):
    module = build(name, 3)  # other weights
    module.load_state_dict(load_file(folder / f"{name}.back.safetensors"))
    before, after = torch.load(folder / f"{name}.pt"), module.state_dict()
    found = [f"{key} is only in one of them" for key in before.keys() ^ after.keys()]
    for key in before.keys() & after.keys():
        a, b = before[key], after[key]
        if a.dtype != b.dtype or not torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)):
            found.append(f"{key} differs")
    return {"tensors": len(after), "found": found}


main(networks, make, check)
