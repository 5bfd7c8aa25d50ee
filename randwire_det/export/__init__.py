"""Trained networks as files that run without this package: ONNX, TorchScript, torch.export.

checkpoint -> Exportable (a network of tensors, and what reads its pictures) -> file -> parity
"""
