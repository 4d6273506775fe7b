"""Stands in for safetensors.torch, and for a torch.Parameter as far as an exporter needs one."""

from .numpy import save_file as write


class Parameter:
    def __init__(self, shape, values, grad=True, dtype="float32", contiguous=False):
        self.shape, self.values, self.grad, self.dtype, self.contiguous_ = shape, values, grad, dtype, contiguous

    def detach(self):
        return Parameter(self.shape, self.values, False, self.dtype, self.contiguous_)

    def clone(self):
        return Parameter(self.shape, list(self.values), self.grad, self.dtype, self.contiguous_)

    def contiguous(self):
        return Parameter(self.shape, self.values, self.grad, self.dtype, True)


class Written:
    def __init__(self, tensor):
        assert not tensor.grad, "a tensor that requires grad cannot be written"
        self.shape, self.values, self.dtype, self.contiguous = tensor.shape, tensor.values, tensor.dtype, tensor.contiguous_


def save_file(tensors, filename, metadata=None):
    assert len({id(tensor.values) for tensor in tensors.values()}) == len(tensors), "some tensors share memory"
    write({name: Written(tensor) for name, tensor in tensors.items()}, filename, metadata)
