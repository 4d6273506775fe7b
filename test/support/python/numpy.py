"""Stands in for NumPy where an exporter of docs/from-python.md needs no more than this."""

float32 = "float32"


class ndarray:
    def __init__(self, shape, values, dtype="float32", contiguous=False):
        self.shape, self.values, self.dtype, self.contiguous = shape, values, dtype, contiguous

    @property
    def real(self):
        return ndarray(self.shape, [value.real for value in self.values])

    @property
    def imag(self):
        return ndarray(self.shape, [value.imag for value in self.values])


def ascontiguousarray(value, dtype=None):
    return ndarray(value.shape, [float(v) for v in value.values], dtype or value.dtype, True)
