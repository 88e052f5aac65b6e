"""What a model needs on an accelerator, before anything is started. Pure: imports no engine, Django or Ray.

`plan.make_plan` joins the parts: the architecture read from config.json, weights, KV cache, activations,
refusals, latency and money. One implementation for the page, the REST API and `manage.py plan`.
"""
