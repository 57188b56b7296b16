"""LoRA adapters as PEFT saves them: reading the files, and what each changes in a weight."""
