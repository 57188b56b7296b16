"""Base models: safetensors on a disk or a hub, 16 bits or 4, read as rows of float32."""
