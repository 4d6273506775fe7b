"""JAX and Flax: modules with minimal-LRU's parameter tree and arithmetic (written anew after its descriptions; see cases.py)."""

from functools import cache, partial

import flax
import jax
import numpy
import safetensors
import safetensors.flax
from cases import differences, exporter, floats, main, plain_error
from flax import linen as nn
from flax import serialization
from jax import numpy as jnp

jax.config.update("jax_enable_x64", True)  # for what linrec is compared with; parameters are float32, as they are without
export = exporter("JAX (minimal-LRU)")
F32 = jnp.float32


class Lru(nn.Module):
    d_hidden: int
    d_model: int

    @nn.compact
    def __call__(self, u):
        """u [length, d_model]"""
        n, h = self.d_hidden, self.d_model
        normal = lambda scale: lambda key, shape: jax.random.normal(key, shape, F32) * F32(scale)
        ring = lambda key, shape: jnp.log(-jnp.log(jnp.sqrt(jax.random.uniform(key, shape, F32, 0.25, 0.998))))
        phase = lambda key, shape: jnp.log(F32(6.28) * jax.random.uniform(key, shape, F32))
        nu_log, theta_log = self.param("nu_log", ring, (n,)), self.param("theta_log", phase, (n,))
        gamma_log = self.param("gamma_log", lambda _: 0.5 * jnp.log(1 - jnp.exp(-2 * jnp.exp(nu_log))))
        B_re, B_im = (self.param(f"B_{part}", normal((2 * h) ** -0.5), (n, h)) for part in ("re", "im"))
        C_re, C_im = (self.param(f"C_{part}", normal(n**-0.5), (h, n)) for part in ("re", "im"))
        D = self.param("D", normal(1.0), (h,))
        eigenvalues = jnp.exp(-jnp.exp(nu_log) + 1j * jnp.exp(theta_log))
        bu = u @ (jnp.exp(gamma_log)[:, None] * (B_re + 1j * B_im)).T
        combine = lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1])
        _, states = jax.lax.associative_scan(combine, (jnp.broadcast_to(eigenvalues, bu.shape), bu))
        return (states @ (C_re + 1j * C_im).T).real + D * u


class SequenceLayer(nn.Module):
    d_model: int
    d_hidden: int
    norm: str
    prenorm: bool

    def setup(self):
        self.seq = Lru(self.d_hidden, self.d_model)
        self.out1, self.out2 = nn.Dense(self.d_model), nn.Dense(self.d_model)
        self.normalization = nn.LayerNorm() if self.norm == "layer" else nn.BatchNorm(use_running_average=True)

    def __call__(self, x):
        z = nn.gelu(self.seq(self.normalization(x) if self.prenorm else x))
        z = x + self.out1(z) * nn.sigmoid(self.out2(z))
        return z if self.prenorm else self.normalization(z)


class StackedEncoder(nn.Module):
    d_model: int
    d_hidden: int
    n_layers: int
    norm: str
    prenorm: bool

    def setup(self):
        self.encoder = nn.Dense(self.d_model)
        self.layers = [SequenceLayer(self.d_model, self.d_hidden, self.norm, self.prenorm) for _ in range(self.n_layers)]

    def __call__(self, x):
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Classification(nn.Module):
    d_output: int
    d_model: int
    d_hidden: int
    n_layers: int
    norm: str
    prenorm: bool
    pooling: str

    def setup(self):
        self.encoder = StackedEncoder(self.d_model, self.d_hidden, self.n_layers, self.norm, self.prenorm)
        self.decoder = nn.Dense(self.d_output)

    def __call__(self, x):
        x = self.encoder(x)
        x = {"mean": lambda: x.mean(axis=0), "last": lambda: x[-1], "none": lambda: x}[self.pooling]()
        return nn.log_softmax(self.decoder(x), axis=-1)


def batched(module, **settings):
    return nn.vmap(module, in_axes=0, out_axes=0, variable_axes={"params": None, "batch_stats": None}, split_rngs={"params": False})(**settings)


# name -> the module, what the guide's exporter is told, and the input's shape
networks = {
    "lru": (partial(batched, Lru, d_hidden=7, d_model=5), {"architecture": "lrnnx/lru"}, (3, 300, 5)),
    "sequence layer": (
        partial(batched, SequenceLayer, d_model=6, d_hidden=5, norm="layer", prenorm=True),
        {"architecture": "minimal-lru/sequence-layer", "norm": "layer", "prenorm": True}, (2, 70, 6),
    ),
    "stacked encoder, batch norm behind": (
        partial(batched, StackedEncoder, d_model=8, d_hidden=12, n_layers=3, norm="batch", prenorm=False),
        {"architecture": "minimal-lru/stacked-encoder", "norm": "batch", "prenorm": False}, (2, 60, 2),
    ),
    "classification": (
        partial(batched, Classification, d_output=5, d_model=8, d_hidden=12, n_layers=2, norm="layer", prenorm=True, pooling="mean"),
        {"architecture": "minimal-lru/classification", "norm": "layer", "prenorm": True, "pooling": "mean"}, (3, 50, 2),
    ),
    "classification, batch norm, last": (
        partial(batched, Classification, d_output=3, d_model=8, d_hidden=8, n_layers=2, norm="batch", prenorm=True, pooling="last"),
        {"architecture": "minimal-lru/classification", "norm": "batch", "prenorm": True, "pooling": "last"}, (2, 20, 4),
    ),
    "classification of each token, bfloat16": (
        partial(batched, Classification, d_output=3, d_model=8, d_hidden=8, n_layers=1, norm="layer", prenorm=False, pooling="none"),
        {"architecture": "minimal-lru/classification", "norm": "layer", "prenorm": False, "pooling": "none"}, (2, 20, 4),
    ),
}  # fmt: skip


def build(name, seed):
    """Variables at random: also where Flax starts from ones and zeros."""
    make, _, shape = networks[name]
    module = make()
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros(shape, F32))
    generator = numpy.random.default_rng(seed)
    noise = lambda value: jnp.asarray(value + abs(0.2 * floats(generator, *value.shape)), jnp.bfloat16 if "bfloat16" in name else F32)
    return jax.tree.map(lambda value: noise(value) if value.ndim == 1 or "bfloat16" in name else value, variables)


@cache
def compiled(name):
    return jax.jit(networks[name][0]().apply)


def outputs(name, variables, x, dtype):
    as_linrec_has_them = jax.tree.map(lambda value: value.astype(F32).astype(dtype), variables)
    return numpy.asarray(compiled(name)(as_linrec_has_them, x.astype(dtype)))


def make(cases):
    for name, (_, spec, shape) in networks.items():
        variables = build(name, 1)
        cases.path(name, "msgpack").write_bytes(serialization.to_bytes(variables))
        export(variables, cases.path(name), **spec)
        x = floats(numpy.random.default_rng(2), *shape)
        own, y = (outputs(name, variables, x, dtype) for dtype in (F32, jnp.float64))
        facts = {"plain": plain_error(variables["params"], x, y)} if spec["architecture"] == "lrnnx/lru" else {}
        cases.add(name, x, y, own, architecture=spec["architecture"], **facts)
    cases.finish({"jax": jax.__version__, "flax": flax.__version__, "safetensors": safetensors.__version__})


def check(folder, name):
    other = build(name, 3)  # other weights
    variables = flax.traverse_util.unflatten_dict(safetensors.flax.load_file(folder / f"{name}.back.safetensors"), sep=".")
    restored = serialization.from_state_dict(other, variables)
    before = serialization.from_bytes(other, (folder / f"{name}.msgpack").read_bytes())
    flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep=".")
    found = differences(flat(before), flat(restored))
    x = floats(numpy.random.default_rng(2), *networks[name][2])
    if outputs(name, before, x, F32).tobytes() != outputs(name, restored, x, F32).tobytes():
        found.append("it gives other outputs")
    return {"tensors": len(flat(restored)), "found": found}


main(networks, make, check)
