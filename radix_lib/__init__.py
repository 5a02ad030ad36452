"""RadixAttention, step by step: SGLang's prefix cache, built on a real model.

Names are imported when they are first used, so that the control plane starts without
torch.
"""

from typing import TYPE_CHECKING

from radix_lib._door import door

if TYPE_CHECKING:
    from radix_lib.batch_invariance import batch_invariant as batch_invariant
    from radix_lib.diagnosis import explain as explain
    from radix_lib.equality import compare_logits as compare_logits
    from radix_lib.executor import AttentionExecutor as AttentionExecutor
    from radix_lib.model_loader import load_model as load_model
    from radix_lib.page_manager import (
        KVPool as KVPool,
        OutOfPages as OutOfPages,
        PageManager as PageManager,
    )
    from radix_lib.radix_cache import RadixCache as RadixCache
    from radix_lib.radix_model import RadixAttentionModel as RadixAttentionModel
    from radix_lib.radix_tree import RadixTree as RadixTree
    from radix_lib.router import Namespace as Namespace, Router as Router
    from radix_lib.scheduler import Scheduler as Scheduler
    from radix_lib.token_time import TokenTime as TokenTime
else:
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
        "Scheduler": "scheduler",
        "TokenTime": "token_time",
        "explain": "diagnosis",
        "compare_logits": "equality",
        "batch_invariant": "batch_invariance",
    }
    __all__ = list(_HOME)
    __getattr__, __dir__ = door(__name__, _HOME)

__version__ = "0.1.0"
