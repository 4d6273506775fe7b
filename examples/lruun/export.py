"""Writes a layer of lruun (TensorFlow) as a .safetensors file that linrec reads. Needs NumPy.

    from export import export

    model.load_weights("weights.h5")            # your built Keras model
    export(model.layers[1], "lru.safetensors")  # a LinearRecurrentUnit or ResLRU, Cell or FFN, or an RNN around a cell

then `await engine.model(url)`. Weights are taken from the attributes that hold them, for in a .h5 file several of a ResLRU
have one name ("kernel:0"), and a locked gamma is not there at all: loaded anew, lruun would draw another.
"""

import json
import struct

import numpy as np

LRU = {"lambda_nu": "nu", "lambda_theta": "theta"} | {
    name: name for name in ("gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
}


def tensors(layer):
    """{name: float32 array} of a layer, under the names that linrec knows."""
    layer = getattr(layer, "cell", layer)
    lru = getattr(layer, "lru", layer)
    is_block = lru is not layer
    found = {("lru." if is_block else "") + name: getattr(lru, own) for name, own in LRU.items()}
    dense = {"adapter": layer.adapter}
    if is_block:
        found |= {"norm.gamma": layer.norm.gamma, "norm.beta": layer.norm.beta}
        dense |= {"glu.w_1": layer.glu.w_1, "glu.w_3": layer.glu.w_3}
    for name, part in dense.items():
        if hasattr(part, "kernel"):  # where widths are equal, the adapter is the identity
            found |= {f"{name}.kernel": part.kernel, f"{name}.bias": part.bias}
    return {name: np.ascontiguousarray(value, "<f4") for name, value in found.items()}


def export(layer, path):
    """Writes the file, with the architecture inside, so that linrec needs no spec."""
    arrays = tensors(layer)
    kind = "res-lru" if "lru.D" in arrays else "linear-recurrent-unit"
    header = {"__metadata__": {"linrec": json.dumps({"architecture": f"lruun/{kind}"})}}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())
