def evaluate(recording, result): return {}
