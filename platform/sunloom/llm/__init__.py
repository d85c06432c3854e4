"""Language models: conversations, tokenizers, training, evaluation."""
