"""The demo model that ships with Raydeck: its corpus, its training script and the trained weights.

Nothing here is imported by the console, the workers or the gateway; they use the files in `model/` and
`suggestions.json`. Only `train.py` may import torch and transformers.
"""
