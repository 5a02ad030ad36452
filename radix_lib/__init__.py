"""RadixAttention, step by step: the prefix cache of SGLang, built on a real language model.

Names are imported when they are first used, so that the control plane starts without torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load_model": "model_loader",
    "RadixTree": "radix_tree",
    "PageManager": "page_manager",
    "KVPool": "page_manager",
    "OutOfPages": "page_manager",
    "RadixCache": "radix_cache",
    "Namespace": "router",
    "Router": "router",
    "AttentionExecutor": "executor",
    "RadixAttentionModel": "radix_model",
    "compare_logits": "equality",
    "batch_invariant": "batch_invariance",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'radix_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"radix_lib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
