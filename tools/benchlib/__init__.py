"""What tools/bench is made of. gpu.py and peers.py need PyTorch and a GPU; the others run on arrays of NumPy as well."""
