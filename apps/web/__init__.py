"""The Gradio app in which experts compare models."""
