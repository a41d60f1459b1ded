"""The export stage: writes the ONNX file."""
