"""Runs exported generators on pictures, and times ONNX files: ONNX Runtime and NumPy, never torch."""
