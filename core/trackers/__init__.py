"""Experiment trackers that follow a training: TensorBoard, MLflow and others. May import config and below."""
