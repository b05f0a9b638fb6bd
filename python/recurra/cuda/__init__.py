"""Layers on NVIDIA GPUs. Nothing of CUDA is loaded before it is used."""
