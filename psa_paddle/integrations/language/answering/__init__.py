"""From messages to an answer: media, prompt, prefill, decoding; conversations that keep their KV cache."""
