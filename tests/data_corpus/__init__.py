"""Clean files of every type, kind and shape, and the faults that are planted into them."""
