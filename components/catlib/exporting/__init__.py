"""Export: from a generator to an ONNX file that computes the same."""
