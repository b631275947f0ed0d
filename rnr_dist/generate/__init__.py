"""Text from models: vLLM engines in Ray actors behind one pool that re-issues lost work."""
