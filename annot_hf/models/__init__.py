"""The Hub payload: flat files that import only each other, NumPy, torch and transformers."""
