"""tda: Python's side of libtda, which runs the attention kernels that tdagen compiles to PTX."""
