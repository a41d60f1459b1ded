"""The link to TensorBoard, for a Kubeflow that has TensorBoard's viewer."""
