"""Adapter training: a pure plan and collation, and Ray Train + DeepSpeed around them."""
