"""Energy and experiment tracking: one outside library each."""
