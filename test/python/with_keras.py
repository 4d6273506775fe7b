"""Keras 3: layers with lruun's weights under its attributes, and its arithmetic (written anew after its descriptions; see cases.py).

lruun itself needs TensorFlow and Keras 2; these run on another backend of Keras 3, PyTorch unless KERAS_BACKEND says otherwise.
"""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # for what linrec is compared with, where JAX is the backend

import keras
import numpy
from cases import ROOT, differences, exporter, floats, main, plain_error
from keras import layers, ops

sys.path.insert(0, str(ROOT / "examples" / "lruun"))
import export as lruun

export_arrays = exporter("TensorFlow, or anything with NumPy arrays")


class LinearRecurrentUnit(layers.Layer):
    def __init__(self, num_neurons, d_hidden=None, locked_gamma=False, **options):
        super().__init__(**options)
        self.num_neurons, self.d_hidden, self.locked_gamma = num_neurons, d_hidden or 2 * num_neurons, locked_gamma

    def build(self, shape):
        n, hidden = self.num_neurons, self.d_hidden
        uniform = lambda low, high: keras.initializers.RandomUniform(low, high, seed=self.seed())
        for name, size in {"C_re": (hidden, n), "B_re": (n, hidden), "C_im": (hidden, n), "B_im": (n, hidden)}.items():
            setattr(self, name, self.add_weight(shape=size, initializer=uniform(-0.5, 0.5), name=name))
        self.D = self.add_weight(shape=(n,), initializer=uniform(-1, 1), name="D")
        self.nu = self.add_weight(shape=(hidden,), initializer=uniform(-4.6, -0.09), name="lambda_nu")
        self.theta = self.add_weight(shape=(hidden,), initializer=uniform(0, 6.28), name="lambda_theta")
        gamma_log = 0.5 * ops.log(1 - ops.exp(-2 * ops.exp(self.nu)))
        if self.locked_gamma:
            self.gamma_log = ops.convert_to_numpy(gamma_log)
        else:
            self.gamma_log = self.add_weight(shape=(hidden,), initializer=uniform(-2, 0), name="gamma_log")
        self.adapter = adapter(n, shape)
        self.built = True

    def seed(self):
        LinearRecurrentUnit.count += 1
        return LinearRecurrentUnit.count

    def call(self, x):
        """x [batch, length, features]; token by token, in real arithmetic: Keras has no complex numbers everywhere"""
        u = self.adapter(x)
        radius = ops.exp(-ops.exp(self.nu))
        re, im = radius * ops.cos(self.theta), radius * ops.sin(self.theta)
        gamma = ops.exp(self.gamma_log)
        bu_re, bu_im = gamma * (u @ self.B_re), gamma * (u @ self.B_im)
        h_re = h_im = ops.zeros_like(bu_re[:, 0])
        outputs = []
        for t in range(x.shape[1]):
            h_re, h_im = re * h_re - im * h_im + bu_re[:, t], re * h_im + im * h_re + bu_im[:, t]
            outputs.append(h_re @ self.C_re - h_im @ self.C_im + self.D * u[:, t])
        return ops.stack(outputs, axis=1)


class Glu(layers.Layer):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.w_1, self.w_3 = layers.Dense(width), layers.Dense(width)

    def build(self, shape):
        self.w_1.build(shape)
        self.w_3.build(shape)
        self.built = True

    def call(self, x):
        return self.w_3(x) * ops.sigmoid(self.w_1(x))


class ResLru(layers.Layer):
    def __init__(self, num_neurons, locked_gamma=False, **options):
        super().__init__(**options)
        self.num_neurons = num_neurons
        self.lru = LinearRecurrentUnit(num_neurons, locked_gamma=locked_gamma)
        self.norm, self.glu = layers.LayerNormalization(), Glu(num_neurons)

    def build(self, shape):
        own = (*shape[:-1], self.num_neurons)
        for part in (self.lru, self.norm, self.glu):
            part.build(own)
        self.adapter = adapter(self.num_neurons, shape)
        self.built = True

    def call(self, x):
        a = self.adapter(x)
        z = keras.activations.gelu(self.lru(self.norm(a)), approximate=False)
        return a + self.glu(z)


def adapter(width, shape):
    if shape[-1] == width:
        return lambda x: x
    dense = layers.Dense(width)
    dense.build(shape)
    return dense


LRU, RES = "lruun/linear-recurrent-unit", "lruun/res-lru"
# name -> the layer, its architecture, the input's shape
networks = {
    "layer": (lambda: LinearRecurrentUnit(5), LRU, (3, 120, 5)),
    "layer, through the guide's exporter of arrays": (lambda: LinearRecurrentUnit(5, 7), "lrnnx/lru", (3, 120, 5)),
    "layer with an adapter, its own width of state": (lambda: LinearRecurrentUnit(6, 9), LRU, (2, 60, 4)),
    "layer, locked gamma": (lambda: LinearRecurrentUnit(4, locked_gamma=True), LRU, (2, 60, 4)),
    "residual block": (lambda: ResLru(6), RES, (2, 60, 6)),
    "residual block with an adapter, locked gamma": (lambda: ResLru(6, locked_gamma=True), RES, (2, 60, 3)),
}


def build(name, seed, dtype="float32"):
    """A Keras model of one such layer, as its user has it."""
    LinearRecurrentUnit.count = 1000 * seed
    keras.utils.set_random_seed(seed)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    make, _, (_, length, features) = networks[name]
    model = keras.Sequential([keras.Input((length, features)), make()])
    generator = numpy.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "beta", "bias"):
            weight.assign(ops.convert_to_numpy(weight) + 0.2 * floats(generator, *weight.shape))
    return model


def weights(model):
    """In lruun's own order, a locked gamma included."""
    return lruun.tensors(model.layers[-1])


def arrays(model):
    """What the guide's exporter of arrays takes."""
    p = weights(model)
    both = lambda name: (p[f"{name}_re"] + 1j * p[f"{name}_im"]).T
    return p["lambda_nu"], p["lambda_theta"], p["gamma_log"], both("B"), both("C"), p["D"]


def run(model, x):
    return ops.convert_to_numpy(model(x))


def make(cases):
    for name, (_, architecture, shape) in networks.items():
        first = build(name, 1)
        h5 = cases.path(name, "weights.h5")
        first.save_weights(h5)
        numpy.savez(cases.path(name, "npz"), **weights(first))
        model = build(name, 2)  # as it is on another day: other weights, then those of the file
        model.load_weights(h5)
        for layer in (model.layers[-1], getattr(model.layers[-1], "lru", None)):
            if getattr(layer, "locked_gamma", False):  # not in the .h5 file
                layer.gamma_log = weights(first)["lru.gamma_log" if architecture == RES else "gamma_log"]
        if architecture == "lrnnx/lru":
            export_arrays(cases.path(name), *arrays(model))
        else:
            lruun.export(model.layers[-1], cases.path(name))
        x = floats(numpy.random.default_rng(2), *shape)
        double = build(name, 3, "float64")
        double.set_weights(model.get_weights())
        lruun.assign(double.layers[-1], weights(model))
        facts = {}
        y = run(double, x.astype(float))
        if name.startswith("layer") and shape[-1] == len(weights(model)["D"]):
            nu_log, theta, gamma_log, B, C, D = arrays(model)
            own = {"nu_log": nu_log, "theta_log": numpy.log(theta), "gamma_log": gamma_log, "D": D}
            facts["plain"] = plain_error({**own, "B_re": B.real, "B_im": B.imag, "C_re": C.real, "C_im": C.imag}, x, y)
        cases.add(name, x, y, run(model, x), architecture=architecture, **facts)
    cases.finish({"keras": f"{keras.__version__} on {keras.backend.backend()}, not TensorFlow"})


def check(folder, name):
    before = dict(numpy.load(folder / f"{name}.npz"))
    path = folder / f"{name}.back.safetensors"
    model = build(name, 4)
    if networks[name][1] == "lrnnx/lru":
        p = lruun.read(path)
        back = {"lambda_nu": p["nu_log"], "lambda_theta": p["theta"], "gamma_log": p["gamma_log"], "D": p["D"]}
        lruun.assign(model.layers[-1], {**back, **{key: p[key].T for key in ("B_re", "B_im", "C_re", "C_im")}})
    else:
        lruun.load(model.layers[-1], path)
    found = differences(before, weights(model))
    again = build(name, 5)
    again.set_weights(model.get_weights())
    after = {key: value for key, value in weights(again).items() if not ("locked" in name and key.endswith("gamma_log"))}
    found += differences({key: before[key] for key in after}, after)
    return {"tensors": len(before), "found": found}


main(networks, make, check)
