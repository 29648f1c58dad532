"""Array namespaces for kernels: one device and one floating precision each, shared by every backend built on them."""
