"""LoRA and DoRA adapters for linear layers, and PEFT's file format for them."""
