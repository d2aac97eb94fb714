"""What a proxy is: a stack of decoders as one, one decoder as a module, or a model of transformers."""
