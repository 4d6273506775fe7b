"""Writes a layer of lruun (TensorFlow) as a .safetensors file that linrec reads, and takes one back. Needs NumPy.

    from export import export, load

    model.load_weights("weights.h5")            # your built Keras model
    export(model.layers[1], "lru.safetensors")  # a LinearRecurrentUnit or ResLRU, Cell or FFN, or an RNN around a cell

then `await engine.model(url)`; and `load(model.layers[1], "lru.safetensors")` sets the weights to those of a file of linrec's `writeModel`.
Weights are taken from the attributes that hold them, for in a .h5 file several of a ResLRU
have one name ("kernel:0"), and a locked gamma is not there at all: loaded anew, lruun would draw another.
"""

import json
import struct

import numpy as np

LRU = {"lambda_nu": "nu", "lambda_theta": "theta"} | {
    name: name for name in ("gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
}


def places(layer):
    """{name that linrec knows: (the object, its attribute)} of a layer's weights."""
    layer = getattr(layer, "cell", layer)
    lru = getattr(layer, "lru", layer)
    is_block = lru is not layer
    found = {("lru." if is_block else "") + name: (lru, own) for name, own in LRU.items()}
    dense = {"adapter": layer.adapter}
    if is_block:
        found |= {"norm.gamma": (layer.norm, "gamma"), "norm.beta": (layer.norm, "beta")}
        dense |= {"glu.w_1": layer.glu.w_1, "glu.w_3": layer.glu.w_3}
    for name, part in dense.items():
        if hasattr(part, "kernel"):  # where widths are equal, the adapter is the identity
            found |= {f"{name}.kernel": (part, "kernel"), f"{name}.bias": (part, "bias")}
    return found


def tensors(layer):
    """{name: float32 array} of a layer."""
    return {name: np.ascontiguousarray(getattr(*place), "<f4") for name, place in places(layer).items()}


def assign(layer, arrays):
    """The other way round: sets a built layer's weights. Raises KeyError where one is missing."""
    for name, (part, attribute) in places(layer).items():
        weight = getattr(part, attribute)
        if hasattr(weight, "assign"):
            weight.assign(arrays[name])
        else:  # a locked gamma is no weight
            setattr(part, attribute, arrays[name])


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


def read(path):
    """{name: array} of a .safetensors file of float32 tensors."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    span = lambda entry: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
    return {name: np.frombuffer(span(entry), "<f4").reshape(entry["shape"]) for name, entry in header.items()}


def load(layer, path):
    """Sets a built layer's weights to those of a file that linrec's writeModel wrote."""
    assign(layer, read(path))
