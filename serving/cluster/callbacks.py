"""Hooks for Ray's LLM engine; imported inside replicas only."""

from ray.llm._internal.common.callbacks.base import CallbackBase


class SkipNodeInit(CallbackBase):
    """Skips the download task, which starts one more process that imports vLLM (about 9 s)."""

    async def on_before_node_init(self) -> None:
        """Ray's hook, called before the download task would start."""
        self.ctx.run_init_node = False
