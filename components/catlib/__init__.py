"""The library that every stage uses; it knows nothing of Kubeflow."""
