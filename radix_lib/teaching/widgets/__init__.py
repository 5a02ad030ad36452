"""What the reader plays with. Above each in a notebook stands its `static()` figure."""

from radix_lib.teaching.widgets.base import Lab, Stepper
from radix_lib.teaching.widgets.eviction_lab import EvictionLab
from radix_lib.teaching.widgets.live_chat import LiveChat
from radix_lib.teaching.widgets.page_explorer import PageExplorer
from radix_lib.teaching.widgets.router_walk import RouterWalk
from radix_lib.teaching.widgets.tree_explorer import TreeExplorer

__all__ = [
    "EvictionLab", "Lab", "LiveChat", "PageExplorer", "RouterWalk", "Stepper", "TreeExplorer"
]  # fmt: skip
