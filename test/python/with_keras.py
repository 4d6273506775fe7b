"""Keras 3: layers with lruun's weights under its attributes, and its arithmetic (written anew after its descriptions; see cases.py).

On PyTorch unless KERAS_BACKEND says otherwise; with_tensorflow.py has them in TensorFlow's own complex arithmetic.
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
        gamma = ops.exp(ops.cast(self.gamma_log, self.compute_dtype))
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
    LRU = LinearRecurrentUnit

    def __init__(self, num_neurons, locked_gamma=False, **options):
        super().__init__(**options)
        self.num_neurons = num_neurons
        self.lru = self.LRU(num_neurons, locked_gamma=locked_gamma)
        self.norm, self.glu = layers.LayerNormalization(), Glu(num_neurons)

    def build(self, shape):
        own = (*shape[:-1], self.num_neurons)
        for part in (self.lru, self.norm, self.glu):
            part.build(own)
        self.adapter = adapter(self.num_neurons, shape)
        self.built = True

    def call(self, x):
        a = self.adapter(x)
        return self.rest(a, self.lru(self.norm(a)))

    def rest(self, a, y):
        return a + self.glu(keras.activations.gelu(y, approximate=False))


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


def build(network, seed, dtype="float32"):
    """A Keras model of one such layer, as its user has it."""
    LinearRecurrentUnit.count = 1000 * seed
    keras.utils.set_random_seed(seed)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    make, _, (_, length, features) = network
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


def layers_of(model):
    """The last layer, or the cell it runs, and the LRU in it."""
    layer = getattr(model.layers[-1], "cell", model.layers[-1])
    return layer, getattr(layer, "lru", layer)


def run_script(networks, versions):
    def make(cases):
        for name, network in networks.items():
            _, architecture, shape = network
            first = build(network, 1)
            h5 = cases.path(name, "weights.h5")
            first.save_weights(h5)
            numpy.savez(cases.path(name, "npz"), **weights(first))
            model = build(network, 2)  # as it is on another day: other weights, then those of the file
            model.load_weights(h5)
            _, lru = layers_of(model)
            if lru.locked_gamma:  # not in the .h5 file
                lru.gamma_log = layers_of(first)[1].gamma_log
            if architecture == "lrnnx/lru":
                export_arrays(cases.path(name), *arrays(model))
            else:
                lruun.export(model.layers[-1], cases.path(name))
            x = floats(numpy.random.default_rng(2), *shape)
            double = build(network, 3, "float64")
            double.set_weights(model.get_weights())
            lruun.assign(double.layers[-1], weights(model))
            facts = {}
            y = run(double, x.astype(float))
            layer, _ = layers_of(model)
            if layer is lru and shape[-1] == len(weights(model)["D"]):
                nu_log, theta, gamma_log, B, C, D = arrays(model)
                own = {"nu_log": nu_log, "theta_log": numpy.log(theta), "gamma_log": gamma_log, "D": D}
                own |= {"B_re": B.real, "B_im": B.imag, "C_re": C.real, "C_im": C.imag}
                facts["plain"] = plain_error(own, x, y)
            cases.add(name, x, y, run(model, x), architecture=architecture, **facts)
        cases.finish(versions)

    def check(folder, name):
        before = dict(numpy.load(folder / f"{name}.npz"))
        path = folder / f"{name}.back.safetensors"
        network = networks[name]
        model = build(network, 4)
        if network[1] == "lrnnx/lru":
            p = lruun.read(path)
            back = {"lambda_nu": p["nu_log"], "lambda_theta": p["theta"], "gamma_log": p["gamma_log"], "D": p["D"]}
            lruun.assign(model.layers[-1], {**back, **{key: p[key].T for key in ("B_re", "B_im", "C_re", "C_im")}})
        else:
            lruun.load(model.layers[-1], path)
        found = differences(before, weights(model))
        again = build(network, 5)
        again.set_weights(model.get_weights())
        locked = layers_of(model)[1].locked_gamma
        after = {key: value for key, value in weights(again).items() if not (locked and key.endswith("gamma_log"))}
        found += differences({key: before[key] for key in after}, after)
        if locked:
            layers_of(again)[1].gamma_log = layers_of(model)[1].gamma_log
        x = floats(numpy.random.default_rng(2), *network[2])
        first = build(network, 6)
        lruun.assign(first.layers[-1], before)
        if run(first, x).tobytes() != run(again, x).tobytes():
            found.append("it gives other outputs")
        return {"tensors": len(before), "found": found}

    main(networks, make, check)


if __name__ == "__main__":
    run_script(networks, {"keras": f"{keras.__version__} on {keras.backend.backend()}"})
