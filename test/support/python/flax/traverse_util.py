"""Stands in for flax.traverse_util."""


def flatten_dict(nested, sep):
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update({f"{key}{sep}{name}": leaf for name, leaf in flatten_dict(value, sep).items()})
        else:
            flat[key] = value
    return flat
