"""Code that runs on the Ray cluster; the only package of ours that may import ray or vllm."""
