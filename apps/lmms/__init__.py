"""The bridge to lmms-eval: our variants as one of its models, our rows as one of its tasks."""
