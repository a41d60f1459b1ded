"""Export: writes a generator as an ONNX file, and checks that the file computes the same."""
