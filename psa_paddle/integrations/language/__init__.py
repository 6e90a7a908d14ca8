"""Language models that see: Qwen2.5-VL, through PaddleFormers or PaddleMIX."""
