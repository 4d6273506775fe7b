"""Stands in for safetensors.numpy: writes what it would, and refuses what it would."""

import json
import struct


def save_file(tensor_dict, filename, metadata=None):
    header, chunks, end = {"__metadata__": metadata or {}}, [], 0
    assert all(isinstance(value, str) for value in header["__metadata__"].values()), "metadata holds text alone"
    for name, tensor in sorted(tensor_dict.items()):
        assert tensor.contiguous, f"{name} is not contiguous"
        assert tensor.dtype == "float32", f"{name} is {tensor.dtype}"
        chunks.append(struct.pack(f"<{len(tensor.values)}f", *tensor.values))
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end + len(chunks[-1])]}
        end += len(chunks[-1])
    text = json.dumps(header).encode()
    with open(filename, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))
