"""TensorFlow: what with_keras.py has, in TensorFlow's complex numbers, as a scan of whole sequences and as a cell that a Keras RNN runs.

Written anew after lruun's descriptions; lruun itself needs Keras 2 and TensorFlow Probability.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from with_keras import LRU, RES, LinearRecurrentUnit, ResLru, run_script


class Complex(LinearRecurrentUnit):
    def read(self, x):
        """lambda, gamma B u and D u of tokens x [..., features]"""
        u = self.adapter(x)
        eigenvalues = tf.exp(tf.complex(-tf.exp(self.nu), tf.convert_to_tensor(self.theta)))
        gamma = tf.exp(tf.cast(self.gamma_log, u.dtype))
        to_complex = lambda value: tf.cast(value, eigenvalues.dtype)
        return eigenvalues, to_complex(gamma) * (to_complex(u) @ tf.complex(self.B_re + 0, self.B_im + 0)), self.D * u

    def write(self, h, skip):
        return tf.math.real(h @ tf.complex(self.C_re + 0, self.C_im + 0)) + skip


class Scan(Complex):
    def call(self, x):
        """x [batch, length, features]; doubling: after k rounds each token has its last 2^k, itself included"""
        power, h, skip = self.read(x)
        step = 1
        while step < x.shape[1]:
            h += tf.pad(power * h[:, :-step], [[0, 0], [step, 0], [0, 0]])
            power, step = power * power, 2 * step
        return self.write(h, skip)


class Cell(Complex):
    @property
    def state_size(self):
        return [self.d_hidden, self.d_hidden]

    def call(self, x, states, training=None):
        """x [batch, features]; states: re and im [batch, d_hidden]"""
        eigenvalues, bu, skip = self.read(x)
        h = eigenvalues * tf.complex(*states) + bu
        return self.write(h, skip), [tf.math.real(h), tf.math.imag(h)]


class ResScan(ResLru):
    LRU = Scan


class ResCell(ResLru):
    LRU = Cell

    @property
    def state_size(self):
        return self.lru.state_size

    def call(self, x, states, training=None):
        a = self.adapter(x)
        y, states = self.lru(self.norm(a), states)
        return self.rest(a, y), states


def rnn(cell):
    return keras.layers.RNN(cell, return_sequences=True)


# As in with_keras.py.
networks = {
    "layer, scan": (lambda: Scan(5), LRU, (3, 120, 5)),
    "layer, scan, through the guide's exporter of arrays": (lambda: Scan(5, 7), "lrnnx/lru", (3, 120, 5)),
    "layer, cell": (lambda: rnn(Cell(5)), LRU, (3, 120, 5)),
    "layer, cell, with an adapter, its own width of state": (lambda: rnn(Cell(6, 9)), LRU, (2, 60, 4)),
    "layer, scan, locked gamma": (lambda: Scan(4, locked_gamma=True), LRU, (2, 60, 4)),
    "residual block, scan": (lambda: ResScan(6), RES, (2, 60, 6)),
    "residual block, scan, with an adapter, locked gamma": (lambda: ResScan(6, locked_gamma=True), RES, (2, 60, 3)),
    "residual block, cell": (lambda: rnn(ResCell(6)), RES, (2, 60, 6)),
}

run_script(networks, {"tensorflow": tf.__version__, "keras": keras.__version__})
